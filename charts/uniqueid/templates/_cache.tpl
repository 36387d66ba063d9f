{{/*
What keeps proxies from answering twice with the same IDs, and from sending a request twice.
The headers are the service's own (uniqueid/web/app.py); a proxy which sets them again repairs one
that changed them.
*/}}
{{- define "uniqueid.headers" -}}
Cache-Control: no-store, no-cache, private, max-age=0
Pragma: no-cache
Expires: Thu, 01 Jan 1970 00:00:01 GMT
Vary: "*"
Surrogate-Control: no-store
CDN-Cache-Control: no-store
X-Accel-Expires: "0"
X-Accel-Buffering: "no"
{{- end -}}

{{- define "uniqueid.traefikMiddleware" -}}
{{ .Release.Namespace }}-{{ include "uniqueid.fullname" . }}-no-store@kubernetescrd
{{- end -}}

{{- define "uniqueid.ingressController" -}}
{{- (.Values.ingress).controller | default "none" -}}
{{- end -}}

{{/*
Whether the settings of a controller are set: it is the one that ingress.controller names, or none
is named. Other controllers pass over annotations that are not theirs. A dict of root and name.
*/}}
{{- define "uniqueid.controller" -}}
{{- if has (include "uniqueid.ingressController" .root) (list .name "none") -}}
true
{{- end -}}
{{- end -}}

{{/* Whether Traefik's objects are made: they need its CRDs */}}
{{- define "uniqueid.traefik" -}}
{{- if (.Values.ingress).enabled -}}
{{- $controller := include "uniqueid.ingressController" . -}}
{{- if or (eq $controller "traefik") (and (eq $controller "none") (.Capabilities.APIVersions.Has "traefik.io/v1alpha1/Middleware")) -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Annotations of the Ingress. nginx never stores an answer that it does not buffer. */}}
{{- define "uniqueid.ingressPreset" -}}
{{- if include "uniqueid.controller" (dict "root" . "name" "nginx") }}
nginx.ingress.kubernetes.io/proxy-buffering: "off"
nginx.ingress.kubernetes.io/proxy-next-upstream: "off"
nginx.ingress.kubernetes.io/proxy-next-upstream-tries: "1"
{{- if .Values.ingress.nginxCustomHeaders }}
nginx.ingress.kubernetes.io/custom-headers: {{ .Release.Namespace }}/{{ include "uniqueid.fullname" . }}-headers
{{- end }}
{{- end }}
{{- if include "uniqueid.controller" (dict "root" . "name" "f5-nginx") }}
nginx.org/proxy-buffering: "False"
nginx.org/proxy-next-upstream: "off"
nginx.org/proxy-next-upstream-tries: "1"
# Of the headers nginx keeps these to itself; the next nginx on the way needs them as well.
nginx.org/proxy-pass-headers: "X-Accel-Expires,X-Accel-Buffering"
{{- end }}
{{- if include "uniqueid.traefik" . }}
traefik.ingress.kubernetes.io/router.middlewares: {{ include "uniqueid.traefikMiddleware" . }}
{{- end }}
{{- if include "uniqueid.controller" (dict "root" . "name" "haproxy") }}
haproxy.org/response-set-header: |
  {{- range $name, $value := include "uniqueid.headers" . | fromYaml }}
  {{ $name }} {{ $value | quote }}
  {{- end }}
# Only when the request was never sent.
haproxy.org/backend-config-snippet: retry-on conn-failure
{{- end }}
{{- end -}}

{{/* Annotations of the Service, for the controllers that read them there */}}
{{- define "uniqueid.servicePreset" -}}
{{- if include "uniqueid.traefik" . }}
traefik.ingress.kubernetes.io/service.serverstransport: {{ .Release.Namespace }}-{{ include "uniqueid.fullname" . }}@kubernetescrd
{{- end }}
{{- if include "uniqueid.controller" (dict "root" . "name" "haproxy") }}
haproxy.org/backend-config-snippet: retry-on conn-failure
{{- end }}
{{- if or (.Values.httpRoute).enabled (eq (include "uniqueid.ingressController" .) "none") }}
konghq.com/retries: "0"
{{- end }}
{{- end -}}

{{/* Fails for annotations that cache or retry: a dict of where, annotations and preset */}}
{{- define "uniqueid.refuseCaches" -}}
{{- range $name, $value := .annotations -}}
{{- $own := index $.preset $name | default "" -}}
{{- if and (ne (toString $value) $own) (or (hasKey $.preset $name) (regexMatch "(?i)(cache|next-upstream|retr(y|ies)|attempts)" $name) (regexMatch "(?i)((proxy|fastcgi)[_-]cache|proxy_store|proxy_next_upstream|proxy_ignore_headers|retry|retries|cache-(use|store)|attempts)" (toString $value))) -}}
{{- if not (eq $name "traefik.ingress.kubernetes.io/router.middlewares") -}}
{{- fail (printf "%s has %s, which caches or retries requests: a cached answer is an ID allocated twice, and a repeated request loses IDs. Remove it; the chart sets what the controller needs by ingress.controller" $.where $name) -}}
{{- else if regexMatch "(?i)(cache|retry)" (toString $value) -}}
{{- fail (printf "%s has %s with a middleware that caches or retries (%s): remove it" $.where $name $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
