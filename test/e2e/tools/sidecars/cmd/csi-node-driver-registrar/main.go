// Command csi-node-driver-registrar stands in for the sidecar of the same name, whose module no Go proxy serves: it
// takes the same flags, tells the kubelet about a CSI driver through the plugin registration API, and serves /healthz.
// API: k8s.io/kubelet/pkg/apis/pluginregistration/v1; the kubelet calls, this serves.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// The version of the CSI API that the kubelet wants to read, not the one of the specification.
const csiAPIVersion = "1.0.0"

type registrar struct {
	registration.UnimplementedRegistrationServer
	driver, endpoint string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	log.Printf("the kubelet asks for %s", r.driver)
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{csiAPIVersion},
	}, nil
}

// NotifyRegistrationStatus ends the process when the kubelet refused the driver: its restart is the next attempt.
func (r *registrar) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("the kubelet refused %s: %s", r.driver, status.Error)
	}
	log.Printf("the kubelet has registered %s", r.driver)
	return &registration.RegistrationStatusResponse{}, nil
}

func driverName(address string, operationTimeout time.Duration) string {
	connection, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), operationTimeout)
		info, err := csi.NewIdentityClient(connection).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return info.Name
		}
		log.Printf("the driver at %s does not tell its name yet: %v", address, err)
		time.Sleep(time.Second)
	}
}

func main() {
	address := flag.String("csi-address", "/run/csi/socket", "the driver's socket, as this process sees it")
	endpoint := flag.String("kubelet-registration-path", "", "the driver's socket, as the kubelet sees it")
	folder := flag.String("plugin-registration-path", "/registration", "the folder that the kubelet watches")
	httpEndpoint := flag.String("http-endpoint", "", "HOST:PORT of /healthz")
	timeout := flag.Duration("timeout", 5*time.Second, "of one call of the driver")
	flag.Int("v", 0, "taken, and without effect")
	flag.Parse()
	if *endpoint == "" {
		log.Fatal("--kubelet-registration-path is required")
	}

	r := &registrar{driver: driverName(*address, *timeout), endpoint: *endpoint}
	socket := filepath.Join(*folder, r.driver+"-reg.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, r)

	if *httpEndpoint != "" {
		http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
			if _, err := os.Stat(socket); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = w.Write([]byte("ok"))
		})
		go func() { log.Fatal(http.ListenAndServe(*httpEndpoint, nil)) }()
	}

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		server.Stop() // which removes the socket too
	}()
	log.Printf("serving %s for %s", socket, r.endpoint)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
