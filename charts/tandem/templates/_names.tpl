{{- /* Names, labels and images. */ -}}
{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "tandem.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tandem.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* What selects pods of this release: never changes. Takes {root, component}. */ -}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ include "tandem.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tandem
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Takes {root, image: {repository, tag, digest}}. */ -}}
{{- define "tandem.image" -}}
{{- $repository := ternary (printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) .image.repository) .image.repository (ne .root.Values.image.registry "") -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $repository .image.digest }}
{{- else -}}
{{ printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) }}
{{- end -}}
{{- end }}

{{- /* The service account of a role: controller, train, eval or schedule. Takes {root, role}. */ -}}
{{- define "tandem.serviceAccount" -}}
{{- $account := get .root.Values.serviceAccounts .role -}}
{{- if $account.create -}}
{{ default (printf "%s-%s" (include "tandem.fullname" .root) .role) $account.name }}
{{- else -}}
{{ default "default" $account.name }}
{{- end -}}
{{- end }}

{{- /* A named template's text on lines of its own, or nothing at all. Takes [name, context, indentation]. */ -}}
{{- define "tandem.block" -}}
{{- with include (index . 0) (index . 1) | trim }}{{ nindent (index $ 2) . }}{{ end }}
{{- end }}
