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

{{- define "shoal.authoritySecret" -}}
{{ default (printf "%s-authority" (include "shoal.name" .)) .Values.tls.existingSecret }}
{{- end -}}

{{/* Whether the API's certificate is of the nodes' authority: "true", or nothing. */}}
{{- define "shoal.ownHttps" -}}
{{- if and .Values.https.enabled (not .Values.https.existingSecret) -}}
{{- if not .Values.tls.enabled }}{{ fail "https.enabled wants https.existingSecret, or tls.enabled, whose authority signs a certificate" }}{{ end -}}
true
{{- end -}}
{{- end -}}

{{- define "shoal.url" -}}
{{ ternary "https" "http" .Values.https.enabled }}://{{ include "shoal.name" . }}:{{ .Values.service.port }}
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

{{/*
Files of a secret are root's, or may be read by a group; keys are to be their owner's alone: so they are copied. Certificates are
made here, so that only this container has the authority's key: each pod has one of its own name, however many there are.
Called with {root, node: whom the certificate names, https: whether the API's is wanted, too}.
*/}}
{{- define "shoal.copyKeys" -}}
{{- $ := .root -}}
{{- $https := and .https $.Values.https.enabled -}}
- name: keys
  image: {{ include "shoal.image" $ }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  command:
    - sh
    - -euc
    - |
      install -m 0400 /secret/cluster.key /run/shoal/cluster.key
      {{- if $.Values.tls.enabled }}
      install -m 0400 /authority/tls.key /scratch/ca.key
      install -m 0400 /authority/tls.crt /scratch/ca.pem
      shoal cert node "{{ .node }}" --dir /scratch --days {{ $.Values.tls.days }}
      install -d -m 0700 /run/shoal/tls
      install -m 0400 "/scratch/{{ .node }}"/*.pem /run/shoal/tls/
      {{- end }}
      {{- if $https }}
      install -d -m 0700 /run/shoal/https
      {{- if include "shoal.ownHttps" $ }}
      shoal cert node api --dir /scratch --days {{ $.Values.tls.days }}
      {{- $name := include "shoal.name" $ }}
      {{- $service := printf "%s.%s" $name $.Release.Namespace }}
      {{- range concat (list $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "localhost" "127.0.0.1") $.Values.https.names }} --address {{ . }}{{ end }}
      install -m 0400 /scratch/api/cert.pem /scratch/api/key.pem /run/shoal/https/
      {{- else }}
      install -m 0400 /https/tls.crt /run/shoal/https/cert.pem
      install -m 0400 /https/tls.key /run/shoal/https/key.pem
      {{- end }}
      {{- end }}
      {{- if $.Values.tls.enabled }}
      rm -r /scratch/*
      {{- end }}
  env:
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
  securityContext: {{- include "shoal.containerSecurity" $ | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 128Mi}
  volumeMounts:
    - {name: key-secret, mountPath: /secret, readOnly: true}
    - {name: run, mountPath: /run/shoal}
    {{- if $.Values.tls.enabled }}
    - {name: authority, mountPath: /authority, readOnly: true}
    - {name: scratch, mountPath: /scratch}
    {{- end }}
    {{- if and $https $.Values.https.existingSecret }}
    - {name: https, mountPath: /https, readOnly: true}
    {{- end }}
{{- end -}}

{{/* What clients within the cluster believe, in /api-ca; there is none where the authority is a public one. */}}
{{- define "shoal.apiCa" -}}
- name: api-ca
  secret:
    {{- if include "shoal.ownHttps" . }}
    secretName: {{ include "shoal.authoritySecret" . }}
    items: [{key: tls.crt, path: ca.crt}]
    {{- else }}
    secretName: {{ .Values.https.existingSecret }}
    items: [{key: ca.crt, path: ca.crt}]
    optional: true
    {{- end }}
{{- end -}}

{{/* Shell: before a command that asks the API. */}}
{{- define "shoal.believe" -}}
{{- if .Values.https.enabled -}}
if [ -f /api-ca/ca.crt ]; then export SSL_CERT_FILE=/api-ca/ca.crt; fi; {{ end }}
{{- end -}}

{{- define "shoal.mounts" -}}
- {name: run, mountPath: /run/shoal, readOnly: true}
- {name: cache, mountPath: /var/cache/shoal}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "shoal.volumes" -}}
- name: key-secret
  secret: {secretName: {{ include "shoal.keySecret" . }}, defaultMode: 0444}
{{- if .Values.tls.enabled }}
- name: authority
  secret: {secretName: {{ include "shoal.authoritySecret" . }}, defaultMode: 0444}
- name: scratch
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
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
