{{- /*
The chart has no manifests of its own: manifests/ links to those that kustomize builds, and a template changes what
values.yaml says. So there is one truth, and what is added to deploy/ is in the chart too.
*/}}

{{- /* The text of a file of manifests/, in the namespace of the release. */}}
{{- define "hauberk.text" -}}
{{- $text := .root.Files.Get (printf "manifests/%s" .file) }}
{{- if not $text }}
{{- fail (printf "manifests/%s is missing: this chart was taken from a source tree without its symbolic links. Use the packaged one." .file) }}
{{- end }}
{{- $text | replace "hauberk-system" .root.Values.namespace.name }}
{{- end }}

{{- /* The objects of a file as a list, under `items`. */}}
{{- define "hauberk.objects" -}}
{{- $items := list }}
{{- range splitList "\n---\n" (include "hauberk.text" .) }}
{{- $items = append $items (fromYaml .) }}
{{- end }}
{{- dict "items" $items | toJson }}
{{- end }}

{{- /* The objects of a file that `helm uninstall` leaves, if `keep` says so. */}}
{{- define "hauberk.kept" -}}
{{- $keep := .keep }}
{{- range (include "hauberk.objects" . | fromJson).items }}
{{- if $keep }}
{{- $annotations := .metadata.annotations | default dict }}
{{- $_ := set .metadata "annotations" (set $annotations "helm.sh/resource-policy" "keep") }}
{{- end }}
---
{{ toYaml . }}
{{ end }}
{{- end }}

{{- define "hauberk.image" -}}
{{- with .Values.image }}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- /* Put what values say of a Deployment into it; its container is the one that there is. */}}
{{- define "hauberk.set" -}}
{{- $values := .values }}
{{- $_ := set .object.spec "replicas" $values.replicas }}
{{- $pod := .object.spec.template.spec }}
{{- range $key := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- $_ := unset $pod $key }}
{{- with get $values $key }}{{ $_ := set $pod $key . }}{{ end }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}{{ $_ := set $pod "imagePullSecrets" . }}{{ end }}
{{- $container := first $pod.containers }}
{{- $_ := set $container "image" (include "hauberk.image" .root) }}
{{- $_ := set $container "imagePullPolicy" .root.Values.image.pullPolicy }}
{{- $_ := set $container "resources" $values.resources }}
{{- range $name, $value := .environment }}
{{- range $container.env }}
{{- if eq .name $name }}{{ $_ := set . "value" $value }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
