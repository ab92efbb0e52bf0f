package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	nodeutil "k8s.io/component-helpers/node/util"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/discovery"
	kubeletphase "k8s.io/kubernetes/cmd/kubeadm/app/phases/kubelet"
	kubeconfigutil "k8s.io/kubernetes/cmd/kubeadm/app/util/kubeconfig"
	"k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap"
)

// runJoin is "kubeadm join" with the kubelet's TLS bootstrap that it waits for: preflight, discovery,
// the checks with the bootstrap token, the kubelet's files, the certificate. report is told the phase.
func runJoin(ctx context.Context, join *joinCommand, root, hostname string, report func(phase string)) error {
	if err := join.preflight(root); err != nil {
		return err
	}
	report(phaseDiscovering)
	config, err := discovery.For(nil, join.config)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	report(phaseBootstrapping)
	client, err := kubeconfigutil.ToClientSet(config)
	if err != nil {
		return err
	}
	// kubeadm reads the cluster's configuration with the bootstrap token and stops without it. A rig
	// may have been set up without these objects, so their absence is only said.
	for _, name := range []string{"kubeadm-config", "kubelet-config"} {
		if _, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{}); err != nil {
			if apierrors.IsUnauthorized(err) {
				return fmt.Errorf("failed to get config map: %w", err)
			}
			logf("joiner: kubeadm would stop here: ConfigMap %s: %s", name, scrub(err.Error()))
		}
	}
	// runKubeletStartJoinPhase: a Ready node of that name ends the join.
	name := join.config.NodeRegistration.Name
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot get Node %q: %w", name, err)
	}
	if err == nil && isReady(node) {
		return fmt.Errorf("a Node with name %q and status %q already exists in the cluster. "+
			"You must delete the existing Node or change the name of this new joining Node", name, corev1.NodeReady)
	}
	bootstrapFile := filepath.Join(root, bootstrapConf)
	if err := kubeconfigutil.WriteToDisk(bootstrapFile, config); err != nil {
		return fmt.Errorf("couldn't save bootstrap-kubelet.conf to disk: %w", err)
	}
	// kubeadm removes the bootstrap credential in the end, whatever the outcome.
	defer os.Remove(bootstrapFile)
	ca := filepath.Join(root, clusterCA)
	if _, err := os.Stat(ca); os.IsNotExist(err) {
		cluster := config.Contexts[config.CurrentContext].Cluster
		if err := certutil.WriteCert(ca, config.Clusters[cluster].CertificateAuthorityData); err != nil {
			return fmt.Errorf("couldn't save the CA certificate to disk: %w", err)
		}
	}
	if err := kubeletphase.WriteKubeletDynamicEnvFile(&kubeadmapi.ClusterConfiguration{}, &join.config.NodeRegistration, true, filepath.Join(root, kubeletDirectory)); err != nil {
		return err
	}
	flags, err := readKubeletFlags(root, hostname)
	if err != nil {
		return fmt.Errorf("failed while waiting for the kubelet to start: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, join.config.Timeouts.TLSBootstrap.Duration)
	defer cancel()
	err = bootstrap.LoadClientCert(limited, filepath.Join(root, kubeletConf), bootstrapFile, filepath.Join(root, kubeletCertificates), types.NodeName(flags.nodeName))
	if err != nil {
		return fmt.Errorf("failed while waiting for TLS bootstrap: %w", err)
	}
	return nil
}

// nodeClient makes a client of the kubeconfig that TLS bootstrap left, as the kubelet does at its start.
func nodeClient(root string) (kubernetes.Interface, error) {
	file := filepath.Join(root, kubeletConf)
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	// client-go keeps connections by the names of the files: another machine of this number would speak with
	// the certificate of the one before.
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, err
	}
	config.TLSClientConfig.CertFile, config.TLSClientConfig.KeyFile, config.TLSClientConfig.CAFile = "", "", ""
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("part of the existing client certificate: %w", err)
	}
	if pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter) {
		return nil, errors.New("the existing client certificate is expired")
	}
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "kubelet"
	return kubernetes.NewForConfig(config)
}

// registerStart and registerMost bound the kubelet's pauses in registerWithAPIServer.
const (
	registerStart = 100 * time.Millisecond
	registerMost  = 7 * time.Second
)

// registerNode creates the Node as registerWithAPIServer and tryRegisterWithAPIServer do, again and again
// until it succeeds. A Node that exists is taken over: only the default labels are brought up to date.
func registerNode(ctx context.Context, client kubernetes.Interface, node *corev1.Node, failed func(error)) bool {
	step := registerStart
	for {
		if !sleep(ctx, step) {
			return false
		}
		step = min(2*step, registerMost)
		if err := tryRegister(ctx, client, node); err != nil {
			if ctx.Err() == nil {
				failed(err)
			}
			continue
		}
		return true
	}
}

// defaultLabels are those that the kubelet rewrites on a Node that exists (updateDefaultLabels).
var defaultLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceTypeStable, corev1.LabelInstanceType,
	corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

func tryRegister(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	_, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
		return err
	}
	existing, getErr := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsForbidden(err) && apierrors.IsNotFound(getErr) {
		return err
	}
	if getErr != nil {
		return getErr
	}
	next := existing.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[managedAttachAnnotation] = "true"
	for _, label := range defaultLabels {
		if value, told := node.Labels[label]; told {
			next.Labels[label] = value
		}
	}
	next.Status = existing.Status
	_, _, err = nodeutil.PatchNodeStatus(client.CoreV1(), types.NodeName(node.Name), existing, next)
	return err
}
