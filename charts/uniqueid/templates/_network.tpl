{{/* What the pods may reach: the database and DNS */}}
{{- define "uniqueid.egress" -}}
{{- if ne (include "uniqueid.databaseMode" .) "sqlite" }}
- {{- with .Values.networkPolicy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
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
    {{- if and (eq (include "uniqueid.databaseMode" .) "url") (not (.Values.database).port) }}
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

{{/* Of a pod that no other may reach */}}
{{- define "uniqueid.egressOnly" -}}
policyTypes: [Ingress, Egress]
ingress: []
{{- $egress := include "uniqueid.egress" . | trim }}
{{- if $egress }}
egress:
  {{- $egress | nindent 2 }}
{{- else }}
egress: []
{{- end }}
{{- end -}}
