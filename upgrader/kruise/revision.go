package kruise

import appsv1 "k8s.io/api/apps/v1"

// Images are the images by container of the template that a ControllerRevision keeps.
func Images(rev *appsv1.ControllerRevision) (map[string]string, error) {
	t, err := templateOf(rev)
	if err != nil {
		return nil, err
	}
	images := make(map[string]string, len(t.Spec.Containers))
	for i := range t.Spec.Containers {
		images[t.Spec.Containers[i].Name] = t.Spec.Containers[i].Image
	}
	return images, nil
}
