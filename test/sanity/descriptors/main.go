// Compares proto/csi.proto with the published CSI specifications, element by element.
//
//	descriptors dump FILE                    writes the descriptor of the specification that is linked in
//	descriptors compare OURS NAME=FILE...    compares a descriptor set (buf build) with dumped specifications
//
// Everything that a specification has must be in ours with the same number, name, type and options, and
// everything that ours has must be in at least one of them. Prints each difference; exit code 1 when there is any.
package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"sort"
	"strings"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// elements maps the place of an element, such as "field csi.v1.Volume#2", to all that the wire or a reader of
// options could notice about it.
type elements map[string]string

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "dump":
		err = dump(os.Args[2])
	case len(os.Args) >= 4 && os.Args[1] == "compare":
		err = compare(os.Args[2], os.Args[3:])
	default:
		err = fmt.Errorf("usage: descriptors dump FILE | descriptors compare OURS NAME=FILE...")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "descriptors:", err)
		os.Exit(1)
	}
}

func dump(path string) error {
	file := protodesc.ToFileDescriptorProto((&csi.ProbeRequest{}).ProtoReflect().Descriptor().ParentFile())
	data, err := proto.Marshal(file)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func compare(oursPath string, specs []string) error {
	ours, err := readSet(oursPath)
	if err != nil {
		return err
	}
	differences := []string{}
	known := map[string]bool{}
	for _, spec := range specs {
		name, path, found := strings.Cut(spec, "=")
		if !found {
			return fmt.Errorf("%s: it must be NAME=FILE", spec)
		}
		theirs, err := readFile(path)
		if err != nil {
			return err
		}
		if len(theirs) == 0 {
			return fmt.Errorf("%s: it describes nothing", path)
		}
		for place, facts := range theirs {
			known[place] = true
			if mine, present := ours[place]; !present {
				differences = append(differences, fmt.Sprintf("%s: missing, CSI %s has %s", place, name, facts))
			} else if mine != facts {
				differences = append(differences, fmt.Sprintf("%s: ours is %s, CSI %s has %s", place, mine, name, facts))
			}
		}
		fmt.Printf("CSI %s: %d elements\n", name, len(theirs))
	}
	for place, facts := range ours {
		if !known[place] {
			differences = append(differences, fmt.Sprintf("%s: ours is %s, no specification has it", place, facts))
		}
	}
	sort.Strings(differences)
	for _, difference := range differences {
		fmt.Println(difference)
	}
	if len(differences) > 0 {
		return fmt.Errorf("proto/csi.proto differs from the specification in %d places", len(differences))
	}
	fmt.Printf("proto/csi.proto: %d elements, no difference\n", len(ours))
	return nil
}

func readSet(path string) (elements, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, file := range set.File {
		if file.GetPackage() == "csi.v1" {
			return flatten(file), nil
		}
	}
	return nil, fmt.Errorf("%s: there is no package csi.v1", path)
}

func readFile(path string) (elements, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(data, file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return flatten(file), nil
}

func flatten(file *descriptorpb.FileDescriptorProto) elements {
	all := elements{"syntax": file.GetSyntax(), "package": file.GetPackage()}
	scope := file.GetPackage()
	for _, message := range file.MessageType {
		all.addMessage(scope, message)
	}
	for _, enum := range file.EnumType {
		all.addEnum(scope, enum)
	}
	for _, extension := range file.Extension {
		place := fmt.Sprintf("extension %s#%d", extension.GetExtendee(), extension.GetNumber())
		all[place] = fieldFacts(extension, nil)
	}
	for _, service := range file.Service {
		name := scope + "." + service.GetName()
		all["service "+name] = "service" + options(service.Options)
		for _, method := range service.Method {
			all["method "+name+"."+method.GetName()] = fmt.Sprintf("(stream %t %s) returns (stream %t %s)%s",
				method.GetClientStreaming(), method.GetInputType(),
				method.GetServerStreaming(), method.GetOutputType(), options(method.Options))
		}
	}
	return all
}

func (all elements) addMessage(scope string, message *descriptorpb.DescriptorProto) {
	name := scope + "." + message.GetName()
	all["message "+name] = "message" + options(message.Options)
	for _, field := range message.Field {
		all[fmt.Sprintf("field %s#%d", name, field.GetNumber())] = fieldFacts(field, message.OneofDecl)
	}
	for _, nested := range message.NestedType {
		all.addMessage(name, nested)
	}
	for _, enum := range message.EnumType {
		all.addEnum(name, enum)
	}
}

func (all elements) addEnum(scope string, enum *descriptorpb.EnumDescriptorProto) {
	name := scope + "." + enum.GetName()
	all["enum "+name] = "enum" + options(enum.Options)
	for _, value := range enum.Value {
		all[fmt.Sprintf("enum value %s#%d", name, value.GetNumber())] = value.GetName() + options(value.Options)
	}
}

func fieldFacts(field *descriptorpb.FieldDescriptorProto, oneofs []*descriptorpb.OneofDescriptorProto) string {
	oneof := ""
	if field.OneofIndex != nil {
		oneof = " in oneof " + oneofs[field.GetOneofIndex()].GetName()
	}
	return fmt.Sprintf("%s %s%s %s (JSON %s)%s%s", field.GetLabel(), field.GetType(), field.GetTypeName(),
		field.GetName(), field.GetJsonName(), oneof, options(field.Options))
}

// options renders an options message independently of the order in which it was encoded.
func options(message proto.Message) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic(err)
	}
	parts := []string{}
	for len(data) > 0 {
		number, _, length := protowire.ConsumeField(data)
		if length < 0 {
			panic(protowire.ParseError(length))
		}
		parts = append(parts, fmt.Sprintf("%d:%s", number, hex.EncodeToString(data[:length])))
		data = data[length:]
	}
	if len(parts) == 0 {
		return ""
	}
	sort.Strings(parts)
	return " [" + strings.Join(parts, ", ") + "]"
}
