{{/*
Prefix of every name, whatever the release is called: the operator knows agents and gateways by their ServiceAccounts' names,
and the kinds, watched in all namespaces, allow one installation per cluster.
*/}}
{{- define "shardwright.fullname" -}}
shardwright
{{- end }}

{{/* Labels of every object. Argument: dict "root" $ "component" <name or ""> */}}
{{- define "shardwright.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "shardwright.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: shardwright
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Labels that never change: what selectors use. */}}
{{- define "shardwright.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "shardwright.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* host:port of one of the operator's ports, as agents and gateways dial it. Argument: dict "root" $ "port" 9440 */}}
{{- define "shardwright.operatorEndpoint" -}}
{{ printf "%s-operator.%s.svc:%v" (include "shardwright.fullname" .root) .root.Release.Namespace .port }}
{{- end }}

{{/* Names of a Service in a certificate, comma separated. Argument: dict "root" $ "service" <name> */}}
{{- define "shardwright.serviceNames" -}}
{{- $names := list .service (printf "%s.%s" .service .root.Release.Namespace) (printf "%s.%s.svc" .service .root.Release.Namespace) -}}
{{- join "," (concat $names (list "localhost" "127.0.0.1") (.extra | default list)) -}}
{{- end }}

{{/* Who and where the pod is. */}}
{{- define "shardwright.podEnv" -}}
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: SHARDWRIGHT_LOG
  value: {{ .Values.log.filter | quote }}
{{- end }}

{{/* The token that is exchanged for a certificate, and the authorities to trust. */}}
{{- define "shardwright.enrolmentVolumes" -}}
- name: enrolment-token
  projected:
    # Group-readable where the pod has an fsGroup.
    defaultMode: 0440
    sources:
      - serviceAccountToken: { audience: shardwright-enrol, expirationSeconds: 3600, path: token }
- name: trust
  # Written by the operator; until it is there, the pod waits.
  configMap: { name: shardwright-trust }
{{- end }}

{{- define "shardwright.enrolmentMounts" -}}
- { name: enrolment-token, mountPath: /var/run/secrets/shardwright, readOnly: true }
- { name: trust, mountPath: /etc/shardwright/trust, readOnly: true }
{{- end }}

{{/* Probes of the admin port, over HTTPS. */}}
{{- define "shardwright.probes" -}}
startupProbe:
  httpGet: { scheme: HTTPS, path: /healthz, port: admin }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { scheme: HTTPS, path: /healthz, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { scheme: HTTPS, path: /readyz, port: admin }
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Where a component's pods may run. Argument: the component's values. */}}
{{- define "shardwright.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "shardwright.restrictedContainer" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "shardwright.restrictedPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "shardwright.apiKeysSecret" -}}
{{ .Values.gateway.apiKeysSecretName | default (printf "%s-api-keys" (include "shardwright.fullname" .)) }}
{{- end }}
