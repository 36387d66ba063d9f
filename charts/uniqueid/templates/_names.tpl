{{/* Names of objects, and the image */}}
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

{{/* One character less than other names: the label of its pods adds a hyphen and a hash of ten. */}}
{{- define "uniqueid.statefulName" -}}
{{- include "uniqueid.fullname" . | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "uniqueid.serviceAccountName" -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{- if $account.create -}}
{{- default (include "uniqueid.fullname" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* The claim of SQLite's volume */}}
{{- define "uniqueid.claim" -}}
{{- default (printf "%s-data" (include "uniqueid.fullname" .)) (.Values.persistence).existingClaim -}}
{{- end -}}

{{- define "uniqueid.image" -}}
{{- $image := .Values.image | default dict -}}
{{- $name := $image.repository | default "pacifica/uniqueid" -}}
{{- with $image.registry -}}
{{- $name = printf "%s/%s" . $name -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "uniqueid.servicePort" -}}
{{- int ((.Values.service).port | default 8051) -}}
{{- end -}}
