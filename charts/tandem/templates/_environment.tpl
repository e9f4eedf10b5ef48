{{- /* What all pods are told about the world around them, as environment variables and mounted files. */ -}}
{{- define "tandem.env.store" -}}
{{- with .Values.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- if ne .Values.s3.addressingStyle "auto" }}
- name: AWS_CONFIG_FILE
  value: /etc/tandem/aws/config
{{- end }}
{{- with .Values.s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.s3.accessKeyIdKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.s3.secretAccessKeyKey }}
{{- end }}
{{- end }}

{{- define "tandem.env.network" -}}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
{{- range tuple "AWS_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE" }}
- name: {{ . }}
  value: /etc/tandem/ca/{{ $.Values.caBundle.key }}
{{- end }}
{{- end }}
{{- with .Values.proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or .Values.proxy.http .Values.proxy.https }}
- name: NO_PROXY
  value: {{ prepend (compact (list .Values.proxy.noProxy)) "localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local" | join "," | quote }}
{{- end }}
{{- end }}

{{- define "tandem.env.hub" -}}
{{- $cache := ternary "/cache" "/tmp/cache" (eq (include "tandem.hasCache" .) "true") }}
- name: TANDEM_CACHE
  value: {{ $cache }}
- name: HF_HOME
  value: {{ $cache }}/huggingface
{{- with .Values.hub.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .Values.hub.offline }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- with .Values.hub.token.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.hub.token.key }}
{{- end }}
{{- end }}

{{- define "tandem.hasCache" -}}
{{- if or .Values.modelCache.existingClaim .Values.modelCache.claim.create .Values.modelCache.volume -}} true {{- end -}}
{{- end }}

{{- define "tandem.mounts" -}}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: ca
  mountPath: /etc/tandem/ca
  readOnly: true
{{- end }}
{{- if ne .Values.s3.addressingStyle "auto" }}
- name: aws
  mountPath: /etc/tandem/aws
  readOnly: true
{{- end }}
{{- end }}

{{- define "tandem.volumes" -}}
{{- with .Values.caBundle.configMap }}
- name: ca
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.caBundle.secret }}
- name: ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- if ne .Values.s3.addressingStyle "auto" }}
- name: aws
  configMap:
    name: {{ include "tandem.fullname" . }}-aws
{{- end }}
{{- end }}

{{- /* Takes {root, size}. */ -}}
{{- define "tandem.tmpVolume" -}}
- name: tmp
  {{- if .size }}
  emptyDir:
    sizeLimit: {{ .size }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{- /* Where pods run; takes a map with these keys, as the controller and each profile have them. */ -}}
{{- define "tandem.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- range $key := tuple "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
