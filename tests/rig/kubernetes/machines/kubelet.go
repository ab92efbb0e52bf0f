package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	kubeletphase "k8s.io/kubernetes/cmd/kubeadm/app/phases/kubelet"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

// Where kubeadm and the kubelet's packages keep their files on a Debian machine
// (cmd/kubeadm/app/constants and the kubelet's 10-kubeadm.conf drop-in).
const (
	kubeletConf          = "etc/kubernetes/kubelet.conf"
	bootstrapConf        = "etc/kubernetes/bootstrap-kubelet.conf"
	clusterCA            = "etc/kubernetes/pki/ca.crt"
	kubeletDirectory     = "var/lib/kubelet"
	kubeletCertificates  = "var/lib/kubelet/pki"
	kubeadmFlagsFile     = "var/lib/kubelet/kubeadm-flags.env"
	kubeletDefaults      = "etc/default/kubelet"
	kubeletSysconfig     = "etc/sysconfig/kubelet"
	kubeletExtraVariable = "KUBELET_EXTRA_ARGS"
)

// kubeletFlags is what a machine's kubelet is told on its command line.
type kubeletFlags struct {
	nodeName   string
	labels     map[string]string
	taints     []corev1.Taint
	providerID string
	nodeIPs    []string
}

// readKubeletFlags assembles the command line as the drop-in does, kubeadm's flags first and
// KUBELET_EXTRA_ARGS last, and reads it with the kubelet's own flag set and validation.
func readKubeletFlags(root, hostname string) (*kubeletFlags, error) {
	var arguments []string
	if fromKubeadm, err := kubeletphase.ReadKubeletDynamicEnvFile(filepath.Join(root, kubeadmFlagsFile)); err == nil {
		arguments = fromKubeadm
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, file := range []string{kubeletDefaults, kubeletSysconfig} {
		extra, err := extraArguments(filepath.Join(root, file))
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		arguments = append(arguments, extra...)
	}
	return parseKubeletFlags(arguments, hostname)
}

func parseKubeletFlags(arguments []string, hostname string) (*kubeletFlags, error) {
	own := options.NewKubeletFlags()
	config := &kubeletconfig.KubeletConfiguration{}
	flags := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags.Usage = func() {}
	flags.SetOutput(io.Discard)
	own.AddFlags(flags)
	options.AddKubeletConfigFlags(flags, config)
	if err := flags.Parse(arguments); err != nil {
		return nil, fmt.Errorf("kubelet: failed to parse kubelet flag: %w", err)
	}
	if rest := flags.Args(); len(rest) > 0 {
		return nil, fmt.Errorf("kubelet: unknown command %s", rest[0])
	}
	if err := options.ValidateKubeletFlags(own); err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	result := &kubeletFlags{
		nodeName: strings.ToLower(strings.TrimSpace(hostname)),
		labels:   own.NodeLabels, taints: config.RegisterWithTaints, providerID: config.ProviderID,
	}
	if own.HostnameOverride != "" {
		result.nodeName = strings.ToLower(strings.TrimSpace(own.HostnameOverride))
	}
	for _, ip := range strings.Split(own.NodeIP, ",") {
		if ip = strings.TrimSpace(ip); ip == "" {
			continue
		}
		if net.ParseIP(ip) == nil {
			return nil, fmt.Errorf("kubelet: bad --node-ip %q", ip)
		}
		result.nodeIPs = append(result.nodeIPs, ip)
	}
	return result, nil
}

// extraArguments reads KUBELET_EXTRA_ARGS from an environment file of systemd. No file is no arguments.
func extraArguments(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var arguments []string
	joined := strings.ReplaceAll(string(data), "\\\n", "")
	for _, line := range strings.Split(joined, "\n") {
		line = strings.TrimSpace(line)
		value, ok := strings.CutPrefix(line, kubeletExtraVariable+"=")
		if !ok {
			continue
		}
		// The value may be quoted as a whole; systemd splits $KUBELET_EXTRA_ARGS at blanks.
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		// A later assignment replaces an earlier one.
		arguments = strings.Fields(value)
	}
	return arguments, nil
}
