{{/* The kind of the workload, how it is replaced, and the claims of its fences */}}

{{- define "uniqueid.replicas" -}}
{{- dig "replicas" 1 .Values.AsMap | int -}}
{{- end -}}

{{/* Whether there are several pods with a fence each: a StatefulSet gives each a claim of its own. */}}
{{- define "uniqueid.stateful" -}}
{{- if and (.Values.fence).enabled (gt (include "uniqueid.replicas" . | int) 1) -}}
true
{{- end -}}
{{- end -}}

{{- define "uniqueid.strategyType" -}}
{{- if (.Values.strategy).type -}}
{{- .Values.strategy.type -}}
{{- else if include "uniqueid.stateful" . -}}
RollingUpdate
{{- else if or (.Values.fence).enabled (eq (include "uniqueid.databaseMode" .) "sqlite") -}}
Recreate
{{- else -}}
RollingUpdate
{{- end -}}
{{- end -}}

{{- define "uniqueid.minReplicas" -}}
{{- int (.Values.autoscaling.minReplicas | default 2) -}}
{{- end -}}

{{- define "uniqueid.maxReplicas" -}}
{{- int (.Values.autoscaling.maxReplicas | default 4) -}}
{{- end -}}

{{/*
The replicas of the Deployment; empty where another party decides. An autoscaler starts from the pods
that there are: without the field an upgrade that turns it on would leave one. What renders without a
cluster does not see them, and leaves the field to the autoscaler.
*/}}
{{- define "uniqueid.deploymentReplicas" -}}
{{- if (.Values.maintenance).enabled -}}
0
{{- else if (.Values.autoscaling).enabled -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "uniqueid.fullname" .) -}}
{{- .spec.replicas | default (include "uniqueid.minReplicas" $) -}}
{{- end -}}
{{- else -}}
{{- include "uniqueid.replicas" . -}}
{{- end -}}
{{- end -}}

{{/* The specification of a fence's claim */}}
{{- define "uniqueid.fenceClaim" -}}
accessModes:
  - ReadWriteOnce
{{- with .Values.fence.storageClass }}
storageClassName: {{ ternary "" . (eq . "-") | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.fence.size | default "16Mi" }}
{{- end -}}
