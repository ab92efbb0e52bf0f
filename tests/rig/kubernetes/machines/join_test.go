package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	testToken = "abcdef.0123456789abcdef"
	testHash  = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

const testJoinFile = `apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {apiServerEndpoint: "192.0.2.1:6443", token: ` + testToken + `, caCertHashes: ["` + testHash + `"]}
nodeRegistration:
  taints: [{key: gpu, value: "true", effect: NoSchedule}]
  kubeletExtraArgs:
  - {name: node-labels, value: "a=b,c=d"}
`

func TestAJoinIsReadFromFlagsAndFromAFile(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/join.yaml"), []byte(testJoinFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"192.0.2.1:6443", "--token", testToken, "--discovery-token-ca-cert-hash=" + testHash},
		{"--config", "/etc/join.yaml"},
	} {
		join, err := parseJoin(arguments, root, "Node-7")
		if err != nil {
			t.Fatalf("%v: %v", arguments[0], err)
		}
		d := join.config.Discovery
		if d.BootstrapToken.APIServerEndpoint != "192.0.2.1:6443" || d.TLSBootstrapToken != testToken || len(d.BootstrapToken.CACertHashes) != 1 {
			t.Error("the discovery is not the one that was told")
		}
		if name := join.config.NodeRegistration.Name; name != "node-7" {
			t.Errorf("the node is called %q", name)
		}
		join.limit(30*time.Second, time.Minute)
		if got := join.config.Timeouts.Discovery.Duration; got != 30*time.Second {
			t.Errorf("discovery may take %s", got)
		}
	}
	named, err := parseJoin([]string{"--config", "/etc/join.yaml", "--node-name", "x"}, root, "node-7")
	if err == nil && named.config.NodeRegistration.Name != "x" {
		t.Errorf("the flag lost: %s", named.config.NodeRegistration.Name)
	}
}

func TestJoinsThatKubeadmRefuses(t *testing.T) {
	for want, arguments := range map[string][]string{
		"caCertHashes":     {"192.0.2.1:6443", "--token", testToken},
		"unknown flag":     {"192.0.2.1:6443", "--toke", testToken},
		"no such file":     {"--config", "/missing.yaml"},
		"can not mix":      {"--config", "/missing.yaml", "--token", testToken},
		"token":            {"192.0.2.1:6443", "--token", "nonsense-secret", "--discovery-token-ca-cert-hash", testHash},
		"bootstrapToken":   {"--token", testToken},
		"nodeRegistration": {"192.0.2.1:6443", "--token", testToken, "--discovery-token-ca-cert-hash", testHash, "--node-name", "Bad_Name"},
	} {
		_, err := parseJoin(arguments, t.TempDir(), "n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", arguments, err)
		}
	}
}

func TestFilesOfAnEarlierJoinStopTheNextOne(t *testing.T) {
	root := t.TempDir()
	join, err := parseJoin([]string{"192.0.2.1:6443", "--token", testToken, "--discovery-token-ca-cert-hash", testHash}, root, "n")
	if err != nil {
		t.Fatal(err)
	}
	if err := join.preflight(root); err != nil {
		t.Error(err)
	}
	if err := writeFiles(cloudConfig{"write_files": []any{map[string]any{"path": "/" + kubeletConf, "content": "x"}}}, root, false); err != nil {
		t.Fatal(err)
	}
	if err := join.preflight(root); err == nil || !strings.Contains(err.Error(), "FileAvailable--etc-kubernetes-kubelet.conf") {
		t.Errorf("%v", err)
	}
	join.ignore = []string{"FileAvailable--etc-kubernetes-kubelet.conf"}
	if err := join.preflight(root); err != nil {
		t.Error(err)
	}
}

func TestTheKubeletReadsItsFlagsAsTheRealOne(t *testing.T) {
	root := t.TempDir()
	for file, text := range map[string]string{
		kubeadmFlagsFile: `KUBELET_KUBEADM_ARGS="--node-labels=a=b,topology.kubernetes.io/zone=z --register-with-taints=gpu=true:NoSchedule"`,
		kubeletDefaults:  "# comment\nKUBELET_EXTRA_ARGS=\"--provider-id=proxmox://r/207 --node-ip=192.0.2.7 --node-labels=c=d\"\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags, err := readKubeletFlags(root, "Node-7")
	if err != nil {
		t.Fatal(err)
	}
	if flags.nodeName != "node-7" || flags.providerID != "proxmox://r/207" || len(flags.taints) != 1 || flags.taints[0].Key != "gpu" ||
		flags.labels["a"] != "b" || flags.labels["c"] != "d" || len(flags.nodeIPs) != 1 {
		t.Errorf("%+v", flags)
	}
	for _, arguments := range [][]string{
		{"--node-labels=node-role.kubernetes.io/worker="}, {"--node-labels=a=b c"}, {"--no-such-flag=1"},
		{"--register-with-taints=nonsense"}, {"--node-ip=here"}, {"stray"},
	} {
		if _, err := parseKubeletFlags(arguments, "n"); err == nil {
			t.Errorf("%v was accepted", arguments)
		}
	}
}

func TestNoMessageCarriesASecret(t *testing.T) {
	secret := "0123456789abcdef"
	for _, text := range []string{
		"token abcdef." + secret + " is wrong", "could not read Bearer " + secret,
		`discovery.bootstrapToken.token: Invalid value: "` + secret + `": the bootstrap token is invalid`,
		"-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----", "user@pve!id=11111111-2222-" + secret,
	} {
		if got := scrub(text); strings.Contains(got, secret) {
			t.Errorf("%s", got)
		}
	}
	if got := scrub(errors.New("x "+secret).Error(), secret); strings.Contains(got, secret) {
		t.Error(got)
	}
}
