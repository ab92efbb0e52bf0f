package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	kubeadmscheme "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/scheme"
	kubeadmv1beta4 "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/validation"
	configutil "k8s.io/kubernetes/cmd/kubeadm/app/util/config"
	"sigs.k8s.io/yaml"
)

// joinCommand is a "kubeadm join" that was understood.
type joinCommand struct {
	config *kubeadmapi.JoinConfiguration
	ignore []string
}

// secrets are the values of a join that may stand in no message.
func (j *joinCommand) secrets() []string {
	list := []string{j.config.Discovery.TLSBootstrapToken}
	if j.config.Discovery.BootstrapToken != nil {
		list = append(list, j.config.Discovery.BootstrapToken.Token)
	}
	return list
}

// parseJoin reads the arguments of "kubeadm join" with kubeadm's own defaulting, decoding and validation.
// The flags are those of addJoinConfigFlags and addJoinOtherFlags (cmd/kubeadm/app/cmd/join.go) as far as
// a worker uses them; an unknown one fails as it would there.
func parseJoin(arguments []string, root, hostname string) (*joinCommand, error) {
	external := &kubeadmv1beta4.JoinConfiguration{}
	external.Discovery.BootstrapToken = &kubeadmv1beta4.BootstrapTokenDiscovery{}
	var file, token, discoveryFile string
	var verbosity int
	join := &joinCommand{}
	flags := pflag.NewFlagSet("join", pflag.ContinueOnError)
	flags.Usage = func() {}
	flags.StringVar(&file, "config", "", "")
	flags.StringVar(&token, "token", "", "")
	flags.StringVar(&external.NodeRegistration.Name, "node-name", "", "")
	flags.StringVar(&external.NodeRegistration.CRISocket, "cri-socket", "", "")
	flags.StringVar(&external.Discovery.BootstrapToken.Token, "discovery-token", "", "")
	flags.StringSliceVar(&external.Discovery.BootstrapToken.CACertHashes, "discovery-token-ca-cert-hash", nil, "")
	flags.BoolVar(&external.Discovery.BootstrapToken.UnsafeSkipCAVerification, "discovery-token-unsafe-skip-ca-verification", false, "")
	flags.StringVar(&discoveryFile, "discovery-file", "", "")
	flags.StringVar(&external.Discovery.TLSBootstrapToken, "tls-bootstrap-token", "", "")
	flags.StringSliceVar(&join.ignore, "ignore-preflight-errors", nil, "")
	flags.IntVarP(&verbosity, "v", "v", 0, "")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if err := validation.ValidateMixedArguments(flags); err != nil {
		return nil, err
	}
	if discoveryFile != "" {
		return nil, errors.New("the rig does not play file discovery")
	}
	options := configutil.LoadOrDefaultConfigurationOptions{SkipCRIDetect: true}
	named := external.NodeRegistration.Name != ""
	if file != "" {
		data, err := os.ReadFile(filepath.Join(root, filepath.Clean("/"+file)))
		if err != nil {
			return nil, fmt.Errorf("unable to read config from %q: no such file", file)
		}
		if join.config, err = configutil.BytesToJoinConfiguration(data, options); err != nil {
			return nil, err
		}
		if !named {
			named = configNamesNode(data)
		} else {
			join.config.NodeRegistration.Name = external.NodeRegistration.Name
		}
		if join.config.Discovery.File != nil {
			return nil, errors.New("the rig does not play file discovery")
		}
	} else {
		kubeadmscheme.Scheme.Default(external)
		if token != "" {
			if external.Discovery.TLSBootstrapToken == "" {
				external.Discovery.TLSBootstrapToken = token
			}
			if external.Discovery.BootstrapToken.Token == "" {
				external.Discovery.BootstrapToken.Token = token
			}
		}
		external.Discovery.File = nil
		external.ControlPlane = nil
		if flags.NArg() == 0 {
			external.Discovery.BootstrapToken = nil
		} else {
			external.Discovery.BootstrapToken.APIServerEndpoint = flags.Arg(0)
		}
		var err error
		if join.config, err = configutil.DefaultedJoinConfiguration(external, options); err != nil {
			return nil, err
		}
	}
	if join.config.ControlPlane != nil {
		return nil, errors.New("the rig does not play control planes that join")
	}
	// kubeadm took the name of the machine that this program runs on; the virtual machine has its own.
	if !named {
		join.config.NodeRegistration.Name = strings.ToLower(strings.TrimSpace(hostname))
		path := field.NewPath("nodeRegistration")
		if errs := validation.ValidateNodeRegistrationOptions(&join.config.NodeRegistration, path); len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
	}
	join.ignore = append(join.ignore, join.config.NodeRegistration.IgnorePreflightErrors...)
	return join, nil
}

// configNamesNode says whether a JoinConfiguration sets nodeRegistration.name.
func configNamesNode(data []byte) bool {
	for _, document := range strings.Split("\n"+string(data), "\n---") {
		var parsed struct {
			Kind             string `json:"kind"`
			NodeRegistration struct {
				Name string `json:"name"`
			} `json:"nodeRegistration"`
		}
		if yaml.Unmarshal([]byte(document), &parsed) == nil && parsed.Kind == "JoinConfiguration" && parsed.NodeRegistration.Name != "" {
			return true
		}
	}
	return false
}

// limit cuts kubeadm's time limits (5 min each by default) to the rig's.
func (j *joinCommand) limit(discovery, bootstrap time.Duration) {
	if j.config.Timeouts == nil {
		j.config.Timeouts = &kubeadmapi.Timeouts{}
	}
	cut := func(have **metav1.Duration, most time.Duration) {
		if *have == nil || (*have).Duration > most {
			*have = &metav1.Duration{Duration: most}
		}
	}
	cut(&j.config.Timeouts.Discovery, discovery)
	cut(&j.config.Timeouts.TLSBootstrap, bootstrap)
}

// preflight is the part of kubeadm's preflight that a machine's file system decides: the files of an
// earlier join (RunJoinNodeChecks, checks.go).
func (j *joinCommand) preflight(root string) error {
	for _, file := range []string{"/etc/kubernetes/kubelet.conf", "/etc/kubernetes/bootstrap-kubelet.conf", "/etc/kubernetes/pki/ca.crt"} {
		check := "FileAvailable-" + strings.ReplaceAll(strings.TrimPrefix(file, "/"), "/", "-")
		check = strings.Replace(check, "FileAvailable-", "FileAvailable--", 1)
		ignored := slices.ContainsFunc(j.ignore, func(name string) bool {
			return strings.EqualFold(name, "all") || strings.EqualFold(name, check)
		})
		if _, err := os.Stat(filepath.Join(root, file)); err == nil && !ignored {
			return fmt.Errorf("[preflight] Some fatal errors occurred: [ERROR %s]: %s already exists", check, file)
		}
	}
	return nil
}
