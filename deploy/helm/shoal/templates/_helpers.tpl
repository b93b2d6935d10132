{{- define "shoal.name" -}}
{{- default (printf "%s-%s" .Release.Name .Chart.Name | replace "shoal-shoal" "shoal") .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "shoal.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "shoal.selector" . }}
{{- end -}}

{{- define "shoal.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "shoal.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "shoal.registry" -}}
etcd://{{ if .Values.etcd.enabled }}{{ include "shoal.name" . }}-etcd:2379{{ else }}{{ required "etcd.endpoint: HOST:2379, or etcd.enabled" .Values.etcd.endpoint }}{{ end }}/shoal/{{ .Release.Namespace }}/{{ .Release.Name }}
{{- end -}}

{{- define "shoal.keySecret" -}}
{{ default (printf "%s-key" (include "shoal.name" .)) .Values.key.existingSecret }}
{{- end -}}

{{- define "shoal.url" -}}
http://{{ include "shoal.name" . }}:{{ .Values.service.port }}
{{- end -}}

{{- define "shoal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "shoal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A file of a secret is root's, or may be read by a group; a key is to be its owner's alone: so it is copied. */}}
{{- define "shoal.copyKey" -}}
- name: key
  image: {{ include "shoal.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [install, -m, "0400", /secret/cluster.key, /run/shoal/cluster.key]
  securityContext: {{- include "shoal.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: key-secret, mountPath: /secret, readOnly: true}
    - {name: run, mountPath: /run/shoal}
{{- end -}}

{{- define "shoal.mounts" -}}
- {name: run, mountPath: /run/shoal, readOnly: true}
- {name: cache, mountPath: /var/cache/shoal}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "shoal.volumes" -}}
- name: key-secret
  secret: {secretName: {{ include "shoal.keySecret" . }}, defaultMode: 0444}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if not .Values.cache.size }}
- name: cache
  emptyDir: {}
{{- end }}
{{- end -}}

{{- define "shoal.cacheClaim" -}}
{{- if .Values.cache.size }}
  volumeClaimTemplates:
    - metadata: {name: cache}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.cache.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .Values.cache.size | quote }}}}
{{- end }}
{{- end -}}
