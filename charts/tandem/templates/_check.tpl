{{- /* What the schema cannot say about values that must fit together; every fault at once. */ -}}
{{- define "tandem.check" -}}
{{- $faults := list }}
{{- if not .Values.store.url }}
{{- $faults = append $faults "store.url is not set: give s3://bucket/prefix." }}
{{- end }}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret }}
{{- $faults = append $faults "caBundle.configMap and caBundle.secret are both set: keep one." }}
{{- end }}
{{- $caches := compact (list .Values.modelCache.existingClaim (ternary "claim" "" .Values.modelCache.claim.create) (ternary "volume" "" (not (empty .Values.modelCache.volume)))) }}
{{- if gt (len $caches) 1 }}
{{- $faults = append $faults "modelCache: keep one of existingClaim, claim.create and volume." }}
{{- end }}
{{- $stages := dict }}
{{- range $name, $given := .Values.profiles }}
{{- $shape := dict "root" $ "name" $name "given" $given }}
{{- include "tandem.profile.merge" $shape }}
{{- $profile := $shape.profile }}
{{- if $profile.enabled }}
{{- $_ := set $stages $name $profile.stage }}
{{- if eq $profile.stage "train" }}
{{- if and (gt (int $profile.gpusPerPod) 0) (ne (int $profile.gpusPerPod) (int $profile.processesPerPod)) }}
{{- $faults = append $faults (printf "profiles.%s: processesPerPod (%d) differs from gpusPerPod (%d): training takes one process for each GPU." $name (int $profile.processesPerPod) (int $profile.gpusPerPod)) }}
{{- end }}
{{- if lt (int $profile.gracePeriodSeconds) 330 }}
{{- $faults = append $faults (printf "profiles.%s: gracePeriodSeconds (%d) is less than 330: the ranks have 300 seconds to save a checkpoint." $name (int $profile.gracePeriodSeconds)) }}
{{- end }}
{{- else if or (ne (int $profile.pods) 1) (ne (int $profile.processesPerPod) 1) }}
{{- $faults = append $faults (printf "profiles.%s: pods and processesPerPod are for training only." $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $stage, $name := .Values.defaultProfiles }}
{{- if not $name }}
{{- if has $stage (values $stages) }}
{{- $faults = append $faults (printf "defaultProfiles.%s is empty: name one of the enabled profiles of this stage." $stage) }}
{{- end }}
{{- else if ne (default "" (get $stages $name)) $stage }}
{{- $faults = append $faults (printf "defaultProfiles.%s: %s is not an enabled profile of this stage." $stage $name) }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- range .Values.schedules }}
{{- if has .name $names }}
{{- $faults = append $faults (printf "schedules: %s is there twice." .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if $faults }}
{{- fail (printf "\n- %s" (join "\n- " $faults)) }}
{{- end }}
{{- end }}
