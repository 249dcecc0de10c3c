{{/*
What a schema cannot say, or not in words that help. All problems are told at once, each as "VALUE: what is wrong".
*/}}

{{- define "volumedriver-csi.problems" -}}
{{- $dnsName := "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$" }}
{{- $driver := .Values.driverName }}
{{- if or (gt (len $driver) 63) (not (regexMatch $dnsName $driver)) }}
driverName: {{ $driver | quote }} is no name of a CSI driver. Use at most 63 lower-case letters, digits, dots and dashes, such as csi.volumedriver.io
{{- end }}
{{- $paths := dict
      "node.kubeletPath" .Values.node.kubeletPath
      "dataPlane.hostPath" (include "volumedriver-csi.hostPath" .)
      "dataPlane.runPath" (include "volumedriver-csi.runPath" .) }}
{{- range $value, $path := $paths }}
{{- if not (regexMatch "^(/[A-Za-z0-9._-]+)+/?$" $path) }}
{{ $value }}: {{ $path | quote }} is no absolute path of a directory. Use one such as /var/lib/storage, of letters, digits, dots, dashes and underscores
{{- else if regexMatch "/\\.\\.?(/|$)" $path }}
{{ $value }}: {{ $path | quote }} has a part that is "." or "..". Use the real path
{{- end }}
{{- end }}
{{- $host := include "volumedriver-csi.hostPath" . }}
{{- $run := include "volumedriver-csi.runPath" . }}
{{- if or (eq $host $run) (hasPrefix (printf "%s/" $host) $run) (hasPrefix (printf "%s/" $run) $host) }}
dataPlane.runPath: {{ $run }} and dataPlane.hostPath, {{ $host }}, lie in each other. Use two directories of their own
{{- end }}
{{- $sockets := dict
      "node.kubeletPath" (printf "%s/plugins/%s/csi.sock" (include "volumedriver-csi.kubeletPath" .) $driver)
      "dataPlane.runPath" (printf "%s/attacher.sock" $run)
      "dataPlane.hostPath" (printf "%s/attacher/fuse/0123456789abcdef/qmp" $host) }}
{{- range $value, $path := $sockets }}
{{- if gt (len $path) 107 }}
{{ $value }}: sockets below it would have paths of {{ len $path }} bytes ({{ $path }}), and Linux allows 107. Use a shorter path, or a shorter driverName
{{- end }}
{{- end }}
{{- $taken := dict }}
{{- range $name, $port := .Values.dataPlane.ports }}
{{- $key := toString $port }}
{{- with get $taken $key }}
dataPlane.ports.{{ $name }}: {{ $key }} is the port of {{ . }} as well. All of them are on the network of the nodes: each needs one of its own
{{- end }}
{{- $_ := set $taken $key $name }}
{{- end }}
{{- range $value := list "mapMemory" "reserve" }}
{{- $size := get $.Values.dataPlane $value }}
{{- if not (regexMatch "^[0-9]+(\\.[0-9]+)?([KMGT]iB|[kMGT]B)$" $size) }}
dataPlane.{{ $value }}: {{ $size | quote }} is no size. Use a number and a unit, such as 256MiB
{{- end }}
{{- end }}
{{- include "volumedriver-csi.classProblems" (dict "root" . "list" "storageClasses") }}
{{- include "volumedriver-csi.classProblems" (dict "root" . "list" "volumeSnapshotClasses") }}
{{- include "volumedriver-csi.caProblems" . }}
{{- include "volumedriver-csi.changeProblems" . }}
{{- end }}

{{/* dict root, list: the name of a list of classes. */}}
{{- define "volumedriver-csi.classProblems" -}}
{{- $seen := dict }}
{{- $default := "" }}
{{- range $index, $class := get .root.Values .list }}
{{- $where := printf "%s[%d]" $.list $index }}
{{- $name := tpl ($class.name | default "") $.root }}
{{- if not $name }}
{{ $where }}.name: it is missing. Every class needs a name
{{- else if not (regexMatch "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" $name) }}
{{ $where }}.name: {{ $name | quote }} is no name of an object. Use lower-case letters, digits, dots and dashes
{{- else if hasKey $seen $name }}
{{ $where }}.name: there are two of the name {{ $name }}. Each class needs one of its own
{{- end }}
{{- $_ := set $seen $name true }}
{{- if $class.default }}
{{- if $default }}
{{ $where }}.default: {{ $default }} is the default class already. There can be one
{{- end }}
{{- $default = $name }}
{{- end }}
{{- end }}
{{- end }}

{{- define "volumedriver-csi.caProblems" -}}
{{- with .Values.tls.ca }}
{{- if and .bundle (not (contains "-----BEGIN CERTIFICATE-----" .bundle)) }}
tls.ca.bundle: it holds no certificate. Use PEM, with lines "-----BEGIN CERTIFICATE-----"
{{- end }}
{{- if contains "PRIVATE KEY-----" .bundle }}
tls.ca.bundle: it holds a private key, and would show it to everybody who can read ConfigMaps. Give certificates only
{{- end }}
{{- if and .existingSecret (not .bundle) (not (lookup "v1" "Secret" $.Release.Namespace .existingSecret)) }}
tls.ca.existingSecret: there is no Secret {{ $.Release.Namespace }}/{{ .existingSecret }} that Helm can read (helm template reads none). Make it first, or give its certificate in tls.ca.bundle
{{- end }}
{{- end }}
{{- end }}

{{/* What cannot be changed while there may be volumes. Only seen by what asks the cluster, unlike helm template. */}}
{{- define "volumedriver-csi.changeProblems" -}}
{{- range (lookup "storage.k8s.io/v1" "CSIDriver" "" "").items }}
{{- $annotations := .metadata.annotations | default dict }}
{{- $isOurs := and (eq (get $annotations "meta.helm.sh/release-name") $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) }}
{{- if and $isOurs (ne .metadata.name $.Values.driverName) }}
driverName: this release's driver is {{ .metadata.name }}, and its volumes would be lost to {{ $.Values.driverName }}. Install another release for another driver
{{- end }}
{{- end }}
{{- $host := include "volumedriver-csi.hostPath" . }}
{{- $run := include "volumedriver-csi.runPath" . }}
{{- $daemonSet := lookup "apps/v1" "DaemonSet" .Release.Namespace (printf "%s-data-plane" (include "volumedriver-csi.fullname" .)) }}
{{- range dig "spec" "template" "spec" "volumes" list $daemonSet }}
{{- if and (eq .name "host") (ne .hostPath.path $host) }}
dataPlane.hostPath: volumes lie in {{ .hostPath.path }}, and {{ $host }} would be without them. To move them, uninstall, move the directory on every node, and install again
{{- else if and (eq .name "run") (ne .hostPath.path $run) }}
dataPlane.runPath: devices that are attached reach their volumes through {{ .hostPath.path }}. To have {{ $run }}, uninstall and install again, with no volume in use
{{- end }}
{{- end }}
{{- end }}

{{- define "volumedriver-csi.check" -}}
{{- $problems := include "volumedriver-csi.problems" . | trim }}
{{- if $problems }}
{{- printf "these values cannot work:\n%s\n" $problems | fail }}
{{- end }}
{{- end }}
