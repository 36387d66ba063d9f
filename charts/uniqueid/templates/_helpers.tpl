{{/* Names */}}
{{- define "uniqueid.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "uniqueid.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "uniqueid.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "uniqueid.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "uniqueid.claim" -}}
{{- default (printf "%s-data" (include "uniqueid.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "uniqueid.image" -}}
{{- $name := .Values.image.repository -}}
{{- if .Values.image.registry -}}
{{- $name = printf "%s/%s" .Values.image.registry .Values.image.repository -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What the Service selects. They never change: a Deployment's selector cannot. */}}
{{- define "uniqueid.selectorLabels" -}}
app.kubernetes.io/name: {{ include "uniqueid.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end -}}

{{- define "uniqueid.otherLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: pacifica
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "uniqueid.labels" -}}
{{ include "uniqueid.selectorLabels" . }}
{{ include "uniqueid.otherLabels" . }}
{{- end -}}

{{/* Labels of pods that the Service must not select: a dict of root and role. */}}
{{- define "uniqueid.roleLabels" -}}
app.kubernetes.io/name: {{ include "uniqueid.name" .root }}-{{ .role }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{ include "uniqueid.otherLabels" .root }}
{{- end -}}

{{/* An annotations block from a dict of root and a list of maps, of which later ones win. */}}
{{- define "uniqueid.annotations" -}}
{{- $all := deepCopy .root.Values.commonAnnotations -}}
{{- range .maps -}}
{{- $all = mergeOverwrite $all (deepCopy .) -}}
{{- end -}}
{{- with $all }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* sqlite; url: a Secret has it; parts: host, name, user and password */}}
{{- define "uniqueid.databaseMode" -}}
{{- if .Values.database.host -}}
parts
{{- else if .Values.database.existingSecret -}}
url
{{- else -}}
sqlite
{{- end -}}
{{- end -}}

{{/* Whether there are several pods with a fence each: a StatefulSet gives each a claim of its own */}}
{{- define "uniqueid.stateful" -}}
{{- if and .Values.fence.enabled (gt (int .Values.replicas) 1) -}}
true
{{- end -}}
{{- end -}}

{{/* One less than the others may have: its pods' label has it with a hash of ten and a hyphen */}}
{{- define "uniqueid.statefulName" -}}
{{- include "uniqueid.fullname" . | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "uniqueid.strategyType" -}}
{{- if .Values.strategy.type -}}
{{- .Values.strategy.type -}}
{{- else if include "uniqueid.stateful" . -}}
RollingUpdate
{{- else if or .Values.fence.enabled (eq (include "uniqueid.databaseMode" .) "sqlite") -}}
Recreate
{{- else -}}
RollingUpdate
{{- end -}}
{{- end -}}

{{- define "uniqueid.databasePort" -}}
{{- if .Values.database.port -}}
{{- int .Values.database.port -}}
{{- else if eq .Values.database.type "postgresql" -}}
5432
{{- else -}}
3306
{{- end -}}
{{- end -}}

{{/* Whether the pods must listen to IPv6 as well */}}
{{- define "uniqueid.ipv6" -}}
{{- if or (has "IPv6" .Values.service.ipFamilies) (hasSuffix "DualStack" .Values.service.ipFamilyPolicy) -}}
true
{{- end -}}
{{- end -}}

{{/* A number as it was written: Helm reads 1000000000 as 1e+09 */}}
{{- define "uniqueid.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "uniqueid.configFile" -}}
{{- $database := list "connect_attempts" "connect_wait" "durability" -}}
{{- range $section := list "database" "uniqueid" }}
[{{ $section }}]
{{- range $name, $value := $.Values.settings }}
{{- if eq (has $name $database) (eq $section "database") }}
{{- if kindIs "slice" $value }}
{{ $name }} ={{ range $value }}
    {{ . }}{{ end }}
{{- else }}
{{ $name }} = {{ include "uniqueid.scalar" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "uniqueid.uwsgiFile" -}}
{{- $file := .Files.Get "files/uwsgi.ini" -}}
{{- if include "uniqueid.ipv6" . -}}
{{- $file = $file | replace "http-socket = :8051" "http-socket = [::]:8051" -}}
{{- end -}}
{{- with .Values.uwsgi.threads -}}
{{- $file = regexReplaceAll "(?m)^threads = .*$" $file (printf "threads = %d" (int .)) -}}
{{- end -}}
{{ $file }}
{{- with .Values.uwsgi.listen }}
listen = {{ int . }}
{{- end }}
{{- range $name, $value := .Values.uwsgi.options }}
{{ $name }} = {{ include "uniqueid.scalar" $value }}
{{- end }}
{{- end -}}

{{/* The data of the ConfigMap: only the files that values change */}}
{{- define "uniqueid.files" -}}
{{- if .Values.settings }}
config.cfg: |
  {{- include "uniqueid.configFile" . | nindent 2 }}
{{- end }}
{{- if or .Values.uwsgi.threads .Values.uwsgi.listen .Values.uwsgi.options (include "uniqueid.ipv6" .) }}
uwsgi.ini: |
  {{- include "uniqueid.uwsgiFile" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The data of the chart's own Secret */}}
{{- define "uniqueid.secretData" -}}
{{- if and (eq (include "uniqueid.databaseMode" .) "parts") (not .Values.database.existingSecret) -}}
{{ .Values.database.secretKeys.password }}: {{ .Values.database.password | quote }}
{{- end -}}
{{- end -}}

{{/* Variables that name the database: a dict of root and name, the name of the chart's own Secret */}}
{{- define "uniqueid.databaseEnv" -}}
{{- $database := .root.Values.database -}}
{{- $mode := include "uniqueid.databaseMode" .root -}}
{{- if eq $mode "url" }}
- name: UNIQUEID_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret }}
      key: {{ $database.secretKeys.url }}
{{- else if eq $mode "parts" }}
- name: PEEWEE_PROTO
  value: {{ $database.type }}
- name: PEEWEE_ADDR
  value: {{ $database.host | quote }}
- name: PEEWEE_PORT
  value: {{ include "uniqueid.databasePort" .root | quote }}
- name: PEEWEE_DATABASE
  value: {{ $database.name | quote }}
- name: PEEWEE_USER
  value: {{ $database.user | quote }}
- name: PEEWEE_PASS
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret | default .name }}
      key: {{ $database.secretKeys.password }}
{{- else }}
- name: UNIQUEID_DATABASE_URL
  value: sqlite:////data/db.sqlite3
{{- end }}
{{- end -}}

{{/*
How dbsync runs. New tables start every mode at 1, so only an installation may create them, and only
for an hour: the manifests of an installation are applied again by a rollback, and its pods by a node
that restarts.
*/}}
{{- define "uniqueid.dbsyncArgs" -}}
{{- $initialize := dig "initialize" "auto" .Values.database | toString -}}
{{- if eq $initialize "true" -}}
[pacifica-uniqueid-cmd, dbsync]
{{- else if and (eq $initialize "auto") .Release.IsInstall -}}
[pacifica-uniqueid-cmd, dbsync, --create-until, {{ dateInZone "2006-01-02T15:04:05Z" (now | dateModify "1h") "UTC" | quote }}]
{{- else -}}
[pacifica-uniqueid-cmd, dbsync, --no-create]
{{- end -}}
{{- end -}}

{{/* What the service and dbsync have in common: the same dict */}}
{{- define "uniqueid.containerCommon" -}}
{{- $values := .root.Values -}}
image: {{ include "uniqueid.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
env:
  {{- include "uniqueid.databaseEnv" . | trim | nindent 2 }}
  {{- with $values.tokens }}
  {{- if and .existingSecret .allocationKey }}
  - name: UNIQUEID_AUTH_TOKENS_FILE
    value: /etc/uniqueid-tokens/{{ .allocationKey }}
  {{- end }}
  {{- if and .existingSecret .statusKey }}
  - name: UNIQUEID_STATUS_TOKENS_FILE
    value: /etc/uniqueid-tokens/{{ .statusKey }}
  {{- end }}
  {{- end }}
  {{- if .fence }}
  - name: UNIQUEID_FENCE_PATH
    value: /fence/fence.json
  {{- with $values.fence.window }}
  - name: UNIQUEID_FENCE_WINDOW
    value: {{ include "uniqueid.scalar" . | quote }}
  {{- end }}
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if eq (include "uniqueid.databaseMode" .root) "sqlite" }}
  - name: data
    mountPath: /data
  {{- end }}
  {{- if .fence }}
  - name: fence
    mountPath: /fence
  {{- end }}
  {{- range $file, $_ := include "uniqueid.files" .root | fromYaml }}
  - name: config
    mountPath: /etc/uniqueid/{{ $file }}
    subPath: {{ $file }}
    readOnly: true
  {{- end }}
  {{- if $values.tokens.existingSecret }}
  # The whole directory: a file mounted by subPath would not follow the Secret.
  - name: tokens
    mountPath: /etc/uniqueid-tokens
    readOnly: true
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "uniqueid.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 16Mi
{{- if eq (include "uniqueid.databaseMode" .root) "sqlite" }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "uniqueid.claim" .root }}
{{- end }}
{{- /* Each pod's own, where there are several, is the StatefulSet's. */ -}}
{{- if and .fence (not (include "uniqueid.stateful" .root)) }}
- name: fence
  persistentVolumeClaim:
    claimName: {{ .root.Values.fence.existingClaim | default (printf "%s-fence" (include "uniqueid.fullname" .root)) }}
{{- end }}
{{- if include "uniqueid.files" .root | fromYaml }}
- name: config
  configMap:
    name: {{ .name }}
{{- end }}
{{- with .root.Values.tokens.existingSecret }}
- name: tokens
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What is asked of a claim of a fence */}}
{{- define "uniqueid.fenceClaim" -}}
accessModes:
  - ReadWriteOnce
{{- with .Values.fence.storageClass }}
storageClassName: {{ ternary "" . (eq . "-") | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.fence.size }}
{{- end -}}

{{/* What all pods have in common */}}
{{- define "uniqueid.podCommon" -}}
automountServiceAccountToken: false
# A Service called uniqueid would set UNIQUEID_PORT and more.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- end -}}

{{- define "uniqueid.egress" -}}
{{- if ne (include "uniqueid.databaseMode" .) "sqlite" }}
- to:
    {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- {{- with .Values.networkPolicy.databaseTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- if and (eq (include "uniqueid.databaseMode" .) "url") (not .Values.database.port) }}
    - port: 3306
      protocol: TCP
    - port: 5432
      protocol: TCP
    {{- else }}
    - port: {{ include "uniqueid.databasePort" . }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
