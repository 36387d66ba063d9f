{{/* Labels and annotations */}}

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

{{/* Selects pods that the Service must not select: a dict of root and role. */}}
{{- define "uniqueid.roleSelector" -}}
app.kubernetes.io/name: {{ printf "%s-%s" (include "uniqueid.name" .root) .role | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* Labels of such a pod and of its objects: the same dict. */}}
{{- define "uniqueid.roleLabels" -}}
{{ include "uniqueid.roleSelector" . }}
app.kubernetes.io/component: {{ .role }}
{{ include "uniqueid.otherLabels" .root }}
{{- end -}}

{{/* An annotations block from a dict of root and a list of maps, of which later ones win. */}}
{{- define "uniqueid.annotations" -}}
{{- $all := deepCopy (.root.Values.commonAnnotations | default dict) -}}
{{- range .maps -}}
{{- $all = mergeOverwrite $all (deepCopy (. | default dict)) -}}
{{- end -}}
{{- with $all }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
