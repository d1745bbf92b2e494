{{- /* The labels of every object, beside those of the manifests. */ -}}
{{- define "offduty.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The name of an image; the argument is a list of the root and the image's values. */ -}}
{{- define "offduty.image" -}}
{{- $root := first . }}{{ $image := last . }}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* host:port of the arbiter for plans that name none. */ -}}
{{- define "offduty.arbiterAddress" -}}
{{- .Values.arbiter.address | default (printf "offduty-arbiter.%s.svc:9443" .Release.Namespace) }}
{{- end }}
