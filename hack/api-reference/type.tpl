{{- define "type" -}}
{{- $type := . -}}
{{- if markdownShouldRenderType $type }}
### {{ $type.Name }}

{{ $type.Doc }}
{{- if $type.References }}

In: {{ range $i, $r := $type.SortedReferences }}{{ if $i }}, {{ end }}{{ markdownRenderTypeLink $r }}{{ end }}
{{- end }}
{{- if $type.Validation }}

Rules:
{{- range $type.Validation }}
- {{ . }}
{{- end }}
{{- end }}
{{- if $type.Members }}

| field | what it is | default | rules |
|---|---|---|---|
{{- if $type.GVK }}
| `apiVersion` _string_ | `{{ $type.GVK.Group }}/{{ $type.GVK.Version }}` | | |
| `kind` _string_ | `{{ $type.GVK.Kind }}` | | |
{{- end }}
{{- range $type.Members }}
| `{{ .Name }}` _{{ markdownRenderType .Type }}_ | {{ template "type_members" . }} | {{ markdownRenderDefault .Default }} | {{ $n := 0 }}{{ range .Validation }}{{ if ne . "Optional: {}" }}{{ if $n }}; {{ end }}{{ $n = 1 }}{{ markdownRenderFieldDoc . }}{{ end }}{{ end }} |
{{- end }}
{{- end }}
{{- if $type.EnumValues }}

| value | what it means |
|---|---|
{{- range $type.EnumValues }}
| `{{ .Name }}` | {{ markdownRenderFieldDoc .Doc }} |
{{- end }}
{{- end }}
{{ end -}}
{{- end -}}
