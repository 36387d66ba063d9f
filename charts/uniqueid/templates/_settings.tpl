{{/* The service's configuration files */}}

{{/* A number as it was written: Helm reads 1000000000 as 1e+09. */}}
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

{{/* Whether the pods must listen to IPv6 as well */}}
{{- define "uniqueid.ipv6" -}}
{{- $service := .Values.service | default dict -}}
{{- if or (has "IPv6" ($service.ipFamilies | default list)) (hasSuffix "DualStack" ($service.ipFamilyPolicy | default "")) -}}
true
{{- end -}}
{{- end -}}

{{- define "uniqueid.uwsgiFile" -}}
{{- $uwsgi := .Values.uwsgi | default dict -}}
{{- $file := .Files.Get "files/uwsgi.ini" -}}
{{- if include "uniqueid.ipv6" . -}}
{{- $file = $file | replace "http-socket = :8051" "http-socket = [::]:8051" -}}
{{- end -}}
{{- with $uwsgi.threads -}}
{{- $file = regexReplaceAll "(?m)^threads = .*$" $file (printf "threads = %d" (int .)) -}}
{{- end -}}
{{ $file }}
{{- with $uwsgi.listen }}
listen = {{ int . }}
{{- end }}
{{- range $name, $value := $uwsgi.options }}
{{ $name }} = {{ include "uniqueid.scalar" $value }}
{{- end }}
{{- end -}}

{{/* The data of the ConfigMap: only the files that values change */}}
{{- define "uniqueid.files" -}}
{{- $uwsgi := .Values.uwsgi | default dict -}}
{{- if .Values.settings }}
config.cfg: |
  {{- include "uniqueid.configFile" . | nindent 2 }}
{{- end }}
{{- if or $uwsgi.threads $uwsgi.listen $uwsgi.options (include "uniqueid.ipv6" .) }}
uwsgi.ini: |
  {{- include "uniqueid.uwsgiFile" . | nindent 2 }}
{{- end }}
{{- end -}}
