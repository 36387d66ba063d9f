{{/* What all pods of the chart have in common */}}
{{- define "uniqueid.podCommon" -}}
automountServiceAccountToken: false
# A Service called uniqueid would set UNIQUEID_PORT and more.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
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

{{- define "uniqueid.gracePeriod" -}}
{{- int (.Values.terminationGracePeriodSeconds | default 75) -}}
{{- end -}}

{{/* The pods of the service: the template of the Deployment, or of the StatefulSet */}}
{{- define "uniqueid.pod" -}}
{{- $fullname := include "uniqueid.fullname" . -}}
{{- $context := dict "root" . "name" $fullname -}}
{{- $fenced := dict "root" . "name" $fullname "fence" (.Values.fence).enabled -}}
{{- $sqlite := eq (include "uniqueid.databaseMode" .) "sqlite" -}}
metadata:
  labels:
    {{- include "uniqueid.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $checksums := dict -}}
  {{- with include "uniqueid.files" . | trim }}
  {{- $_ := set $checksums "checksum/config" (sha256sum .) }}
  {{- end }}
  {{- with include "uniqueid.secretData" . }}
  {{- $_ := set $checksums "checksum/secret" (sha256sum .) }}
  {{- end }}
  {{- with (.Values.database).existingSecret }}
  {{- /* Its version and not its content, which a hash of a weak password would tell. */ -}}
  {{- with lookup "v1" "Secret" $.Release.Namespace . }}
  {{- $_ := set $checksums "checksum/existing-secret" (sha256sum (printf "%s %s" .metadata.uid .metadata.resourceVersion)) }}
  {{- end }}
  {{- end }}
  {{- include "uniqueid.annotations" (dict "root" . "maps" (list .Values.podAnnotations $checksums)) | trim | nindent 2 }}
spec:
  {{- include "uniqueid.podCommon" . | nindent 2 }}
  serviceAccountName: {{ include "uniqueid.serviceAccountName" . }}
  terminationGracePeriodSeconds: {{ include "uniqueid.gracePeriod" . }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $spread := .Values.topologySpreadConstraints }}
  {{- if and (kindIs "invalid" $spread) (not $sqlite) }}
  {{- $spread = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") }}
  {{- end }}
  {{- with $spread }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $constraint := deepCopy . }}
    {{- if not (hasKey $constraint "labelSelector") }}
    {{- $_ := set $constraint "labelSelector" (dict "matchLabels" (include "uniqueid.selectorLabels" $ | fromYaml)) }}
    {{- end }}
    - {{- toYaml $constraint | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- if or .Values.extraInitContainers (eq (include "uniqueid.dbsyncMode" .) "initContainer") }}
  initContainers:
    {{- with .Values.extraInitContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if eq (include "uniqueid.dbsyncMode" .) "initContainer" }}
    - name: dbsync
      {{- include "uniqueid.containerCommon" $context | nindent 6 }}
      args: {{ include "uniqueid.dbsyncArgs" . }}
      {{- include "uniqueid.resources" .Values.jobResources | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    - name: uniqueid
      {{- include "uniqueid.containerCommon" $fenced | nindent 6 }}
      ports:
        - name: http
          containerPort: 8051
          protocol: TCP
      startupProbe:
        httpGet:
          path: /livez
          port: http
        {{- with (.Values.probes).startup }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        {{- with (.Values.probes).readiness }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      livenessProbe:
        httpGet:
          path: /livez
          port: http
        {{- with (.Values.probes).liveness }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if and (not $sqlite) .Values.preStopSeconds }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ .Values.preStopSeconds | quote }}]
      {{- end }}
      {{- include "uniqueid.resources" .Values.resources | nindent 6 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "uniqueid.volumes" $fenced | nindent 4 }}
{{- end -}}
