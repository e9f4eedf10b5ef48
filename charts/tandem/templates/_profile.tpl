{{- /* A pod shape: what the controller reads, with a complete PyTorchJob or Job in it. */ -}}

{{- /* The keys of a profile: those given, over profileDefaults. Lists are replaced whole, maps are joined.
Takes {root, name, given} and puts `profile` into it: `include` gives only text, and JSON would turn large whole numbers,
such as a user id of OpenShift, into floats. */ -}}
{{- define "tandem.profile.merge" -}}
{{- $merged := deepCopy .root.Values.profileDefaults }}
{{- range $key, $value := .given }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $merged $key)) }}
{{- $_ := set $merged $key (mustMergeOverwrite (deepCopy (get $merged $key)) $value) }}
{{- else }}
{{- $_ := set $merged $key $value }}
{{- end }}
{{- end }}
{{- $_ := set . "profile" $merged }}
{{- end }}

{{- /* Takes {root, name, profile}, as do all below. */ -}}
{{- define "tandem.profile" -}}
{{- $stage := .profile.stage -}}
stage: {{ $stage }}
default: {{ eq .name (get .root.Values.defaultProfiles $stage) }}
{{- if eq $stage "train" }}
ranks: {{ mul .profile.pods .profile.processesPerPod }}
gpus: {{ mul .profile.pods .profile.gpusPerPod }}
{{- else }}
gpus: {{ int .profile.gpusPerPod }}
{{- end }}
speaks: tandem.dev/run-record/v1
requireDigest: {{ .root.Values.image.requireDigest }}
manifest:
  {{- if eq $stage "train" }}
  {{- include "tandem.profile.pytorchjob" . | nindent 2 }}
  {{- else }}
  {{- include "tandem.profile.job" . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* No app.kubernetes.io/instance here: Argo CD would take the controller's jobs for the release's, and prune them. */ -}}
{{- define "tandem.profile.labels" -}}
app.kubernetes.io/name: tandem
app.kubernetes.io/part-of: tandem
app.kubernetes.io/component: {{ .profile.stage }}
tandem.dev/stage: {{ include "tandem.profile.process" . }}
tandem.dev/profile: {{ .name }}
{{- end }}

{{- /* The stage that the pod's process runs. */ -}}
{{- define "tandem.profile.process" -}}
{{ ternary "generate" .profile.stage (eq .profile.stage "endpoint") }}
{{- end }}

{{- define "tandem.profile.jobMetadata" -}}
labels:
  {{- include "tandem.profile.labels" . | nindent 2 }}
  {{- with .profile.queue }}
  kueue.x-k8s.io/queue-name: {{ . }}
  {{- end }}
  {{- with .profile.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .profile.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tandem.profile.pytorchjob" -}}
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  {{- include "tandem.profile.jobMetadata" . | nindent 2 }}
spec:
  nprocPerNode: {{ .profile.processesPerPod | toString | quote }}
  runPolicy:
    backoffLimit: 0
    # The operator keeps pods by default: after a failure the survivors would hold their GPUs.
    cleanPodPolicy: Running
    {{- include "tandem.block" (list "tandem.profile.limits" . 4) }}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: Never
      template:
        {{- include "tandem.profile.pod" . | nindent 8 }}
    {{- if gt (int .profile.pods) 1 }}
    Worker:
      replicas: {{ sub .profile.pods 1 }}
      restartPolicy: Never
      template:
        {{- include "tandem.profile.pod" . | nindent 8 }}
    {{- end }}
{{- end }}

{{- define "tandem.profile.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "tandem.profile.jobMetadata" . | nindent 2 }}
spec:
  completions: 1
  parallelism: 1
  podReplacementPolicy: Failed
  {{- if ne .profile.stage "score" }}
  # A shard that fails leaves the others alone; with a backoffLimit of 0 it would end them.
  completionMode: Indexed
  backoffLimitPerIndex: 0
  {{- else }}
  backoffLimit: 0
  {{- end }}
  {{- include "tandem.block" (list "tandem.profile.limits" . 2) }}
  template:
    {{- include "tandem.profile.pod" (merge (dict "restartPolicy" "Never") .) | nindent 4 }}
{{- end }}

{{- define "tandem.profile.limits" -}}
{{- with .profile.deadlineSeconds }}
activeDeadlineSeconds: {{ int64 . }}
{{- end }}
{{- if not (kindIs "invalid" .profile.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int64 .profile.ttlSecondsAfterFinished }}
{{- end }}
{{- end }}

{{- define "tandem.profile.pod" -}}
{{- $train := eq .profile.stage "train" -}}
metadata:
  labels:
    {{- include "tandem.profile.labels" . | nindent 4 }}
    {{- with .profile.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .profile.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  serviceAccountName: {{ include "tandem.serviceAccount" (dict "root" .root "role" (ternary "train" "eval" $train)) }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int64 .profile.gracePeriodSeconds }}
  {{- with .profile.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .profile.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- include "tandem.block" (list "tandem.placement" .profile 2) }}
  containers:
    - name: {{ ternary "pytorch" "tandem" $train }}
      image: {{ include "tandem.profile.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: [stage, {{ include "tandem.profile.process" . }}]
      {{- with .profile.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      # What the process says at its end; where it could say nothing, the last lines of its log.
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        - name: HOME
          value: /tmp
        - name: POD_UID
          valueFrom:
            fieldRef:
              fieldPath: metadata.uid
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- include "tandem.block" (list "tandem.env.store" .root 8) }}
        {{- include "tandem.block" (list "tandem.env.network" .root 8) }}
        {{- include "tandem.block" (list "tandem.env.hub" .root 8) }}
        {{- $keys := get (dict "score" .root.Values.judge "endpoint" .root.Values.endpoint) .profile.stage }}
        {{- with $keys }}
        {{- include "tandem.block" (list "tandem.env.keys" . 8) }}
        {{- end }}
        {{- with .profile.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .profile.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "tandem.block" (list "tandem.profile.resources" . 6) }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if .profile.shmSize }}
        - name: shm
          mountPath: /dev/shm
        {{- end }}
        {{- if include "tandem.hasCache" .root }}
        - name: cache
          mountPath: /cache
        {{- end }}
        {{- include "tandem.block" (list "tandem.mounts" .root 8) }}
        {{- with .profile.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "tandem.tmpVolume" (dict "size" .profile.tmpSize) | nindent 4 }}
    {{- with .profile.shmSize }}
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ . }}
    {{- end }}
    {{- if include "tandem.hasCache" .root }}
    - name: cache
      {{- include "tandem.profile.cacheVolume" .root | nindent 6 }}
    {{- end }}
    {{- include "tandem.block" (list "tandem.volumes" .root 4) }}
    {{- with .profile.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "tandem.profile.image" -}}
{{- $image := deepCopy (ternary .root.Values.image.train .root.Values.image.eval (eq .profile.stage "train")) }}
{{- $other := .profile.image }}
{{- if or $other.repository $other.tag $other.digest }}
{{- $image = dict "repository" (default $image.repository $other.repository) "tag" (default $image.tag $other.tag) "digest" $other.digest }}
{{- end }}
{{- include "tandem.image" (dict "root" .root "image" $image) }}
{{- end }}

{{- define "tandem.profile.resources" -}}
{{- $resources := deepCopy .profile.resources }}
{{- if gt (int .profile.gpusPerPod) 0 }}
{{- range tuple "requests" "limits" }}
{{- $_ := set $resources . (merge (dict $.profile.gpuResource (int $.profile.gpusPerPod)) (default dict (get $resources .))) }}
{{- end }}
{{- end }}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tandem.profile.cacheVolume" -}}
{{- if .Values.modelCache.volume }}
{{- toYaml .Values.modelCache.volume }}
{{- else -}}
persistentVolumeClaim:
  claimName: {{ default (printf "%s-models" (include "tandem.fullname" .)) .Values.modelCache.existingClaim }}
{{- end }}
{{- end }}

{{- /* Takes {existingSecret, keys}. */ -}}
{{- define "tandem.env.keys" -}}
{{- if .existingSecret }}
{{- range $variable, $key := .keys }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
