{{/* Combinations that cannot work: each fails with what to set. */}}
{{- define "uniqueid.validate" -}}
{{- $values := .Values -}}
{{- $database := $values.database | default dict -}}
{{- $type := include "uniqueid.databaseType" . -}}
{{- $replicas := include "uniqueid.replicas" . | int -}}
{{- $mode := include "uniqueid.databaseMode" . -}}
{{- if and $database.password $database.existingSecret -}}
{{- fail "database.password and database.existingSecret are both set: set one of them, best existingSecret" -}}
{{- end -}}
{{- if eq $mode "parts" -}}
  {{- if eq $type "sqlite" -}}
  {{- fail "database.host is set and database.type is sqlite: set database.type to mysql or postgresql" -}}
  {{- end -}}
  {{- if not (or $database.password $database.existingSecret) -}}
  {{- fail "database.host is set without a password: set database.existingSecret to a Secret that has it, or database.password" -}}
  {{- end -}}
{{- else if eq $mode "sqlite" -}}
  {{- if ne $type "sqlite" -}}
  {{- fail (printf "database.type is %s without a place: set database.host, or database.existingSecret to a Secret with the whole URL" $type) -}}
  {{- end -}}
  {{- if $database.password -}}
  {{- fail "database.password is set and the database is SQLite, which has none: set database.type and database.host, or remove database.password" -}}
  {{- end -}}
  {{- if gt $replicas 1 -}}
  {{- fail (printf "replicas is %d and the database is SQLite, which one pod has for itself: set replicas to 1, or database.type to mysql or postgresql with database.host" $replicas) -}}
  {{- end -}}
  {{- if ($values.autoscaling).enabled -}}
  {{- fail "autoscaling.enabled is true and the database is SQLite, which one pod has for itself: set autoscaling.enabled to false, or database.type to mysql or postgresql with database.host" -}}
  {{- end -}}
  {{- if eq (include "uniqueid.strategyType" .) "RollingUpdate" -}}
    {{- if has "ReadWriteOncePod" (($values.persistence).accessModes | default list) -}}
    {{- fail "strategy.type is RollingUpdate and persistence.accessModes has ReadWriteOncePod: the new pod would wait for the old one's volume forever. Set strategy.type to Recreate or leave it empty" -}}
    {{- end -}}
    {{- fail "strategy.type is RollingUpdate and the database is SQLite, whose volume is one pod's: set strategy.type to Recreate or leave it empty" -}}
  {{- end -}}
  {{- if eq (include "uniqueid.dbsyncMode" .) "hook" -}}
  {{- fail "dbsync.mode is hook and the database is SQLite, whose volume does not exist before the release: set dbsync.mode to initContainer" -}}
  {{- end -}}
{{- end -}}
{{- if ($values.fence).enabled -}}
  {{- if ($values.autoscaling).enabled -}}
  {{- fail "fence.enabled and autoscaling.enabled are both true: the fence of a pod that is new has to be adopted by hand, and an autoscaler would not wait. Set autoscaling.enabled to false and replicas to a number, or fence.enabled to false" -}}
  {{- end -}}
  {{- if include "uniqueid.stateful" . -}}
    {{- with $values.fence.existingClaim -}}
    {{- fail (printf "fence.existingClaim is %s and replicas is %d: each pod needs a claim of its own, which the StatefulSet makes. Remove fence.existingClaim, or set replicas to 1" . $replicas) -}}
    {{- end -}}
    {{- if eq (include "uniqueid.strategyType" .) "Recreate" -}}
    {{- fail (printf "fence.enabled is true, replicas is %d and strategy.type is Recreate, which a StatefulSet does not have: it ends each pod before its successor starts, one at a time. Set strategy.type to RollingUpdate or leave it empty" $replicas) -}}
    {{- end -}}
  {{- else if eq (include "uniqueid.strategyType" .) "RollingUpdate" -}}
  {{- fail "fence.enabled is true and strategy.type is RollingUpdate: the new pod would wait for the old one's fence forever. Set strategy.type to Recreate or leave it empty" -}}
  {{- end -}}
{{- end -}}
{{- if ($values.autoscaling).enabled -}}
  {{- $least := include "uniqueid.minReplicas" . | int -}}
  {{- $most := include "uniqueid.maxReplicas" . | int -}}
  {{- if gt $least $most -}}
  {{- fail (printf "autoscaling.minReplicas is %d and above autoscaling.maxReplicas, %d: set minReplicas to at most maxReplicas" $least $most) -}}
  {{- end -}}
{{- end -}}
{{- $grace := include "uniqueid.gracePeriod" . | int -}}
{{- if gt (int $values.preStopSeconds) (sub $grace 60) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d: set it to at least preStopSeconds and 60 more, %d, so that accepted requests are answered" $grace (add (int $values.preStopSeconds) 60)) -}}
{{- end -}}
{{- with $values.tokens -}}
{{- if and .existingSecret (not .allocationKey) (not .statusKey) -}}
{{- fail (printf "tokens.existingSecret is %s and no key of it is named: set tokens.allocationKey, tokens.statusKey or both" .existingSecret) -}}
{{- end -}}
{{- if and (or .allocationKey .statusKey) (not .existingSecret) -}}
{{- fail "tokens.allocationKey or tokens.statusKey is set without a Secret: set tokens.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if and ($values.httpRoute).enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true without a gateway: set httpRoute.parentRefs" -}}
{{- end -}}
{{- range ($values.httpRoute).filters -}}
{{- if eq .type "ResponseHeaderModifier" -}}
{{- fail "httpRoute.filters has a ResponseHeaderModifier, and a route can have one only, which is the chart's: remove it" -}}
{{- end -}}
{{- end -}}
{{- $servicePreset := include "uniqueid.servicePreset" . | fromYaml -}}
{{- include "uniqueid.refuseCaches" (dict "where" "service.annotations" "annotations" (($values.service).annotations | default dict) "preset" $servicePreset) -}}
{{- if ($values.ingress).enabled -}}
{{- if not $values.ingress.hosts -}}
{{- fail "ingress.enabled is true without a host: set ingress.hosts" -}}
{{- end -}}
{{- $preset := include "uniqueid.ingressPreset" . | fromYaml -}}
{{- include "uniqueid.refuseCaches" (dict "where" "ingress.annotations" "annotations" (($values.ingress).annotations | default dict) "preset" $preset) -}}
{{- end -}}
{{- include "uniqueid.refuseCaches" (dict "where" "httpRoute.annotations" "annotations" (($values.httpRoute).annotations | default dict) "preset" dict) -}}
{{- include "uniqueid.refuseCaches" (dict "where" "commonAnnotations" "annotations" ($values.commonAnnotations | default dict) "preset" dict) -}}
{{- end -}}
