{{/* What the containers of the service, of dbsync and of maintenance have in common. Each takes a dict
of root; name, of the ConfigMap and the Secret; fence, whether it has the fence. */}}
{{- define "uniqueid.containerCommon" -}}
{{- $values := .root.Values -}}
{{- $tokens := $values.tokens | default dict -}}
image: {{ include "uniqueid.image" .root }}
{{- with ($values.image).pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- with $values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- include "uniqueid.databaseEnv" . | trim | nindent 2 }}
  {{- if and $tokens.existingSecret $tokens.allocationKey }}
  - name: UNIQUEID_AUTH_TOKENS_FILE
    value: /etc/uniqueid-tokens/{{ $tokens.allocationKey }}
  {{- end }}
  {{- if and $tokens.existingSecret $tokens.statusKey }}
  - name: UNIQUEID_STATUS_TOKENS_FILE
    value: /etc/uniqueid-tokens/{{ $tokens.statusKey }}
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
  {{- if ne (include "uniqueid.databaseMode" .root) "sqlite" }}
  - name: database-secret
    mountPath: {{ include "uniqueid.secretDirectory" . }}
    readOnly: true
  {{- end }}
  {{- range $file, $_ := include "uniqueid.files" .root | fromYaml }}
  - name: config
    mountPath: /etc/uniqueid/{{ $file }}
    subPath: {{ $file }}
    readOnly: true
  {{- end }}
  {{- if $tokens.existingSecret }}
  # The whole directory: a file mounted by subPath would not follow the Secret.
  - name: tokens
    mountPath: /etc/uniqueid-tokens
    readOnly: true
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A resources block, from resources or jobResources */}}
{{- define "uniqueid.resources" -}}
{{- with . -}}
resources:
  {{- toYaml . | nindent 2 }}
{{- end -}}
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
{{- with include "uniqueid.secretVolume" . }}
{{ . }}
{{- end }}
{{- /* Where there are several pods, the StatefulSet adds each pod's own claim. */ -}}
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
{{- with (.root.Values.tokens).existingSecret }}
- name: tokens
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
