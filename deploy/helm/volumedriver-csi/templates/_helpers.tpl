{{/* Names, labels, images and paths. Everything derives from the release's and the driver's name. */}}

{{- define "volumedriver-csi.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Leaves room for what is appended, up to the 63 characters of a label or of a Service's name. */}}
{{- define "volumedriver-csi.fullname" -}}
{{- $name := include "volumedriver-csi.name" . }}
{{- $full := .Values.fullnameOverride }}
{{- if not $full }}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- end }}
{{- $full | replace "." "-" | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "volumedriver-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ include "volumedriver-csi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "volumedriver-csi.labels" -}}
{{ include "volumedriver-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* How controllers, and vdctl with no flag, find the pods of the data plane. */}}
{{- define "volumedriver-csi.dataPlaneLabels" -}}
volumedriver.io/driver: {{ .Values.driverName }}
app.kubernetes.io/component: data-plane
{{- end }}

{{- define "volumedriver-csi.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "volumedriver-csi.hostPath" -}}
{{- .Values.dataPlane.hostPath | default (printf "/var/lib/%s" .Values.driverName) | trimSuffix "/" }}
{{- end }}

{{- define "volumedriver-csi.runPath" -}}
{{- .Values.dataPlane.runPath | default (printf "/run/%s" .Values.driverName) | trimSuffix "/" }}
{{- end }}

{{- define "volumedriver-csi.kubeletPath" -}}
{{- .Values.node.kubeletPath | trimSuffix "/" }}
{{- end }}

{{- define "volumedriver-csi.caSecret" -}}
{{- .Values.tls.ca.existingSecret | default (printf "%s-ca" (include "volumedriver-csi.fullname" .)) }}
{{- end }}

{{/* "true" or nothing. */}}
{{- define "volumedriver-csi.hasSnapshots" -}}
{{- if eq (toString .Values.snapshots.enabled) "auto" }}
{{- if .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" }}true{{ end }}
{{- else if .Values.snapshots.enabled }}true
{{- end }}
{{- end }}

{{/* "true" when metrics are to be seen from other machines, or nothing. */}}
{{- define "volumedriver-csi.showsMetrics" -}}
{{- with .Values.monitoring }}
{{- if or .expose .podMonitor.enabled .serviceMonitor.enabled }}true{{ end }}
{{- end }}
{{- end }}

{{- define "volumedriver-csi.metricsHost" -}}
{{- if include "volumedriver-csi.showsMetrics" . }}$(POD_IP){{ else }}127.0.0.1{{ end }}
{{- end }}

{{/* Ports in the network of the pods, where nothing else can be in their way. */}}
{{- define "volumedriver-csi.ports" -}}
issuer: 9443
health: 9808
controllerMetrics: 9812
provisioner: 9821
attacher: 9822
resizer: 9823
snapshotter: 9824
nodeDriverRegistrar: 9825
{{- end }}

{{/* For processes that need nothing of the node. */}}
{{- define "volumedriver-csi.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* On nodes with SELinux, for processes that use a socket of a privileged one. */}}
{{- define "volumedriver-csi.hostSockets" -}}
seLinuxOptions:
  type: spc_t
{{- end }}

{{/* A sidecar of the controller: dict root, name, args. */}}
{{- define "volumedriver-csi.controllerSidecar" -}}
{{- $values := get .root.Values.sidecars .name }}
{{- $port := get (include "volumedriver-csi.ports" .root | fromYaml) .name -}}
- name: csi-{{ .name }}
  image: {{ printf "%s:%s" $values.image.repository $values.image.tag }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --v={{ .root.Values.sidecars.verbosity }}
    - --timeout=60s
    # A node that comes back is not to be waited for longer than this.
    - --retry-interval-max=1m
    - --leader-election
    - --leader-election-namespace=$(NAMESPACE)
    - --kube-api-qps=20
    - --kube-api-burst=100
    {{- range .args }}
    - {{ . }}
    {{- end }}
    {{- if include "volumedriver-csi.showsMetrics" .root }}
    - --http-endpoint=:{{ $port }}
    {{- end }}
    {{- range $values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NAMESPACE
      valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
    - name: POD_NAME
      valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- if include "volumedriver-csi.showsMetrics" .root }}
  ports:
    - name: {{ .name }}
      containerPort: {{ $port }}
  {{- end }}
  securityContext:
    {{- include "volumedriver-csi.restricted" .root | nindent 4 }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: csi
      mountPath: /csi
{{- end }}

{{/* Asks a CSI socket whether its role is well: the health port of the pod. dict root, and node: "true" in node pods. */}}
{{- define "volumedriver-csi.livenessProbeSidecar" -}}
{{- $values := .root.Values.sidecars.livenessProbe -}}
- name: liveness-probe
  image: {{ printf "%s:%s" $values.image.repository $values.image.tag }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --health-port={{ (include "volumedriver-csi.ports" .root | fromYaml).health }}
    - --probe-timeout=5s
    - --v={{ .root.Values.sidecars.verbosity }}
    {{- range $values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  securityContext:
    {{- include "volumedriver-csi.restricted" .root | nindent 4 }}
    {{- if .node }}
    {{- include "volumedriver-csi.hostSockets" .root | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: csi
      mountPath: /csi
{{- end }}
