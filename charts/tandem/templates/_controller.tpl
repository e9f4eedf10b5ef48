{{- /* What all pods with the controller's image share: controller, schedules, test. */ -}}
{{- define "tandem.controllerPod" -}}
{{- with .Values.controller.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tandem.controllerContainer" -}}
image: {{ include "tandem.image" (dict "root" . "image" .Values.image.controller) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.controller.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
