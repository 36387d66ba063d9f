{{/* The database: where it is, and how dbsync treats it */}}

{{/* sqlite; url: a Secret has the whole URL; parts: host, name, user and password */}}
{{- define "uniqueid.databaseMode" -}}
{{- if (.Values.database).host -}}
parts
{{- else if (.Values.database).existingSecret -}}
url
{{- else -}}
sqlite
{{- end -}}
{{- end -}}

{{- define "uniqueid.databaseType" -}}
{{- (.Values.database).type | default "sqlite" -}}
{{- end -}}

{{- define "uniqueid.databasePort" -}}
{{- if (.Values.database).port -}}
{{- int .Values.database.port -}}
{{- else if eq (include "uniqueid.databaseType" .) "postgresql" -}}
5432
{{- else -}}
3306
{{- end -}}
{{- end -}}

{{- define "uniqueid.passwordKey" -}}
{{- ((.Values.database).secretKeys).password | default "password" -}}
{{- end -}}

{{/* The data of the chart's own Secret */}}
{{- define "uniqueid.secretData" -}}
{{- if and (eq (include "uniqueid.databaseMode" .) "parts") (not .Values.database.existingSecret) -}}
{{ include "uniqueid.passwordKey" . }}: {{ .Values.database.password | quote }}
{{- end -}}
{{- end -}}

{{- define "uniqueid.secretDirectory" -}}
/etc/uniqueid-database
{{- end -}}

{{/*
The volume of the Secret with the URL or the password, which pods read as a file; nothing for SQLite.
A dict of root and name, the name of the chart's own Secret.
*/}}
{{- define "uniqueid.secretVolume" -}}
{{- $database := .root.Values.database | default dict -}}
{{- $mode := include "uniqueid.databaseMode" .root -}}
{{- if ne $mode "sqlite" -}}
- name: database-secret
  secret:
    secretName: {{ $database.existingSecret | default .name }}
    items:
      {{- if eq $mode "url" }}
      - key: {{ ($database.secretKeys).url | default "url" }}
        path: url
      {{- else }}
      - key: {{ include "uniqueid.passwordKey" .root }}
        path: password
      {{- end }}
{{- end -}}
{{- end -}}

{{/*
The variable that names the file of a secret: a dict of root, variable and file. Not where extraEnv
has the secret itself, which goes before it.
*/}}
{{- define "uniqueid.secretEnv" -}}
{{- $own := false -}}
{{- range .root.Values.extraEnv -}}
{{- $own = or $own (has .name (list "UNIQUEID_DATABASE_URL" "UNIQUEID_DATABASE_PASSWORD" "PEEWEE_PASS")) -}}
{{- end -}}
{{- if not $own }}
- name: {{ .variable }}_FILE
  value: {{ include "uniqueid.secretDirectory" . }}/{{ .file }}
{{- end -}}
{{- end -}}

{{/* Variables that name the database: a dict of root */}}
{{- define "uniqueid.databaseEnv" -}}
{{- $database := .root.Values.database | default dict -}}
{{- $mode := include "uniqueid.databaseMode" .root -}}
{{- if eq $mode "url" }}
{{- include "uniqueid.secretEnv" (dict "root" .root "variable" "UNIQUEID_DATABASE_URL" "file" "url") }}
{{- else if eq $mode "parts" }}
- name: PEEWEE_PROTO
  value: {{ $database.type }}
- name: PEEWEE_ADDR
  value: {{ $database.host | quote }}
- name: PEEWEE_PORT
  value: {{ include "uniqueid.databasePort" .root | quote }}
- name: PEEWEE_DATABASE
  value: {{ $database.name | default "uniqueid" | quote }}
- name: PEEWEE_USER
  value: {{ $database.user | default "uniqueid" | quote }}
{{- include "uniqueid.secretEnv" (dict "root" .root "variable" "UNIQUEID_DATABASE_PASSWORD" "file" "password") }}
{{- else }}
- name: UNIQUEID_DATABASE_URL
  value: sqlite:////data/db.sqlite3
{{- end }}
{{- end -}}

{{- define "uniqueid.initialize" -}}
{{- dig "initialize" "auto" (.Values.database | default dict) | toString -}}
{{- end -}}

{{/* Who runs dbsync: initContainer, hook or none */}}
{{- define "uniqueid.dbsyncMode" -}}
{{- (.Values.dbsync).mode | default "initContainer" -}}
{{- end -}}

{{/* Whether the hook exists. During maintenance the operator runs dbsync. */}}
{{- define "uniqueid.dbsyncHook" -}}
{{- if and (eq (include "uniqueid.dbsyncMode" .) "hook") (not (.Values.maintenance).enabled) -}}
true
{{- end -}}
{{- end -}}

{{/*
Annotations of the objects that the hook's Job needs, which exist before it and go after it. Helm 3
leaves them when the Job fails: an uninstall deletes them then.
*/}}
{{- define "uniqueid.dbsyncObjects" -}}
helm.sh/hook: pre-install,pre-upgrade,post-delete
helm.sh/hook-weight: "-5"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/*
The arguments of dbsync. New tables start every mode at 1, so only an installation may create them,
and only for an hour: the manifests of an installation are applied again by a rollback, and its pods
by a node that restarts.
*/}}
{{- define "uniqueid.dbsyncArgs" -}}
{{- $initialize := include "uniqueid.initialize" . -}}
{{- if eq $initialize "true" -}}
[pacifica-uniqueid-cmd, dbsync]
{{- else if and (eq $initialize "auto") .Release.IsInstall -}}
[pacifica-uniqueid-cmd, dbsync, --create-until, {{ dateInZone "2006-01-02T15:04:05Z" (now | dateModify "1h") "UTC" | quote }}]
{{- else -}}
[pacifica-uniqueid-cmd, dbsync, --no-create]
{{- end -}}
{{- end -}}
