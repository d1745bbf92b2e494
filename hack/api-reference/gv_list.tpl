{{- define "gvList" -}}
{{- $groupVersions := . -}}
# API reference

Made from the types in [api/v1alpha1](../api/v1alpha1) by `make generate`. `kubectl explain
upgradeplan.spec` says the same on a cluster.
{{- range $groupVersions }}
{{ template "gvDetails" . }}
{{- end }}
{{ end -}}
