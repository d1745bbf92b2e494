package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

// fieldManager owns what this program writes.
const fieldManager = "kubectl-offduty"

// options are kubectl's own flags, and what follows from them.
type options struct {
	*genericclioptions.ConfigFlags

	streams genericiooptions.IOStreams
	config  *rest.Config
}

// connect returns a client for the namespace that the flags name.
func (o *options) connect() (client.WithWatch, string, error) {
	namespace, _, err := o.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, "", err
	}
	if o.config, err = o.ToRESTConfig(); err != nil {
		return nil, "", err
	}
	o.config.QPS, o.config.Burst = -1, 0 // a handful of requests
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), kruisev1beta1.AddToScheme(scheme)); err != nil {
		return nil, "", fmt.Errorf("register types: %w", err)
	}
	k, err := client.NewWithWatch(o.config, client.Options{Scheme: scheme, Mapper: mapper()})
	if err != nil {
		return nil, "", err
	}
	return k, namespace, nil
}

// mapper knows the few kinds that are asked for, which saves discovery.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"UpgradePlan", "Roster"} {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	m.Add(kruisev1beta1.GroupVersion.WithKind("StatefulSet"), meta.RESTScopeNamespace)
	m.Add(appsv1.SchemeGroupVersion.WithKind("ControllerRevision"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	return m
}

// plan reads one plan. One that is not there has an exit code of its own.
func plan(ctx context.Context, k client.Client, namespace, name string) (*v1alpha1.UpgradePlan, error) {
	up := &v1alpha1.UpgradePlan{}
	err := k.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, up)
	if apierrors.IsNotFound(err) {
		return nil, notFound(namespace, name)
	}
	return up, err
}

func notFound(namespace, name string) error {
	return &verdict{view.ExitNotFound, fmt.Sprintf("upgradeplans.offduty.dev %q not found in namespace %s", name, namespace)}
}

// only reads the plan that is named, or the only one of the namespace.
func (o *options) only(ctx context.Context, k client.Client, namespace string, args []string) (*v1alpha1.UpgradePlan, error) {
	if len(args) > 0 {
		return plan(ctx, k, namespace, args[0])
	}
	var list v1alpha1.UpgradePlanList
	if err := k.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	switch len(list.Items) {
	case 0:
		return nil, &verdict{view.ExitNotFound, "there is no upgradeplan in namespace " + namespace}
	case 1:
		return &list.Items[0], nil
	}
	return nil, fmt.Errorf("there are %d upgradeplans in namespace %s: name one", len(list.Items), namespace)
}

// roster reads the Roster of a plan's group; nil when it cannot be seen, and then why.
func roster(ctx context.Context, k client.Client, up *v1alpha1.UpgradePlan) (ro *v1alpha1.Roster, unseen string) {
	key := view.RosterOf(up)
	ro = &v1alpha1.Roster{}
	switch err := k.Get(ctx, key, ro); {
	case err == nil:
		return ro, ""
	case apierrors.IsNotFound(err):
		return nil, fmt.Sprintf("there is no Roster %s: if the group belongs to an arbiter of your own, ask that; else create the Roster, or correct spec.arbiter.group", key)
	default:
		return nil, err.Error()
	}
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, to *string, formats ...string) {
	cmd.Flags().StringVarP(to, "output", "o", "", "Output format. One of: ("+strings.Join(formats, ", ")+").")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
}

// encode writes v as JSON or YAML. It returns false for no format at all.
func encode(out io.Writer, format string, v any) (bool, error) {
	switch format {
	case "":
		return false, nil
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "    ")
		return true, e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err == nil {
			_, err = out.Write(b)
		}
		return true, err
	}
	return true, fmt.Errorf("unable to match a printer suitable for the output format %q", format)
}

const planName = "upgradeplan.offduty.dev/"
