package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// The phases of a machine's way into the cluster.
const (
	phaseNoSeed        = "no-seed"
	phaseRefused       = "refused"
	phaseDiscovering   = "discovering"
	phaseBootstrapping = "bootstrapping"
	phaseRegistering   = "registering"
	phaseReady         = "ready"
	phaseFailed        = "failed"
)

// status is DIR/nodes/VMID/status.json. It never holds a secret.
type status struct {
	VMID  int     `json:"vmid"`
	Name  string  `json:"name"`
	Phase string  `json:"phase"`
	Error *string `json:"error"`
}

// record is DIR/nodes/VMID/record.json: what the machine's disk remembers besides its files.
type record struct {
	// Disk and UUID tell a machine from another one that got the same number later.
	Disk     string `json:"disk"`
	UUID     string `json:"uuid"`
	Hostname string `json:"hostname"`
	// Instance is the instance-id that cloud-init last ran for; it runs commands once per instance.
	Instance string `json:"instance"`
	// Adopted names the node of a machine that was in the cluster before this program came. Its files
	// are not here; it comes back with the administrator's credential.
	Adopted string `json:"adopted,omitempty"`
	// Node is the name that the machine's kubelet registers.
	Node string `json:"node,omitempty"`
	// Network is the network data of the cloud-init drive.
	Network string `json:"network,omitempty"`
}

// joiner plays what happens inside a virtual machine from power-on to a Ready node.
type joiner struct {
	admin     kubernetes.Interface
	guests    *guestWatcher
	keeper    *keeper
	directory string
	schema    string
	version   string
	discovery time.Duration
	bootstrap time.Duration
	ctx       context.Context

	mu    sync.Mutex
	boots map[int]context.CancelFunc
}

// vmDirectory holds everything of one machine; root below it is its file system.
func (j *joiner) vmDirectory(vmid int) string {
	return filepath.Join(j.directory, "nodes", strconv.Itoa(vmid))
}

// boot is called when a machine was switched on.
func (j *joiner) boot(g guest) {
	ctx, cancel := context.WithCancel(j.ctx)
	j.mu.Lock()
	if old := j.boots[g.VMID]; old != nil {
		old()
	}
	j.boots[g.VMID] = cancel
	j.mu.Unlock()
	go j.watchPower(ctx, cancel, g)
	go func() {
		if err := j.run(ctx, g); err != nil && ctx.Err() == nil {
			logf("joiner: %d: %s", g.VMID, scrub(err.Error()))
		}
	}()
}

// watchPower ends what runs in a machine when it is switched off or started anew.
func (j *joiner) watchPower(ctx context.Context, cancel context.CancelFunc, booted guest) {
	for sleep(ctx, 500*time.Millisecond) {
		if g, ok := j.guests.find(booted.VMID); !ok || !g.running() || g.Starts != booted.Starts {
			cancel()
			return
		}
	}
}

// run is one boot.
func (j *joiner) run(ctx context.Context, g guest) error {
	directory := j.vmDirectory(g.VMID)
	known := j.readRecord(g.VMID)
	if known != nil && (known.Disk != systemDisk(g) || known.UUID != smbiosUUID(g.setting("smbios1"))) {
		logf("joiner: %d has another disk than before and starts empty", g.VMID)
		known = nil
		if err := os.RemoveAll(directory); err != nil {
			return err
		}
	}
	if known != nil && known.Adopted != "" {
		known.Hostname = known.Adopted
	}
	if known == nil {
		known = &record{Disk: systemDisk(g), UUID: smbiosUUID(g.setting("smbios1"))}
	}
	root := filepath.Join(directory, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	b := &bootRun{joiner: j, ctx: ctx, guest: g, record: known, directory: directory, root: root}
	return b.cloudInit()
}

func (j *joiner) readRecord(vmid int) *record {
	data, err := os.ReadFile(filepath.Join(j.vmDirectory(vmid), "record.json"))
	if err != nil {
		return nil
	}
	var known record
	if json.Unmarshal(data, &known) != nil {
		return nil
	}
	return &known
}

func (j *joiner) writeRecord(vmid int, known *record) error {
	if err := os.MkdirAll(j.vmDirectory(vmid), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return writeFileAtomically(filepath.Join(j.vmDirectory(vmid), "record.json"), data)
}

func (j *joiner) writeStatus(vmid int, name, phase string, failure error, secrets ...string) {
	s := status{VMID: vmid, Name: name, Phase: phase}
	line := fmt.Sprintf("joiner: %d %s: %s", vmid, name, phase)
	if failure != nil {
		message := scrub(failure.Error(), secrets...)
		s.Error = &message
		line += ": " + message
	}
	logf("%s", line)
	data, err := json.Marshal(s)
	if err == nil {
		if err = os.MkdirAll(j.vmDirectory(vmid), 0o700); err == nil {
			err = writeFileAtomically(filepath.Join(j.vmDirectory(vmid), "status.json"), data)
		}
	}
	if err != nil {
		logf("joiner: %d: status not written: %s", vmid, err)
	}
}

// resume brings back the nodes of machines that joined in an earlier run of this program and still run,
// and remembers the machines of adopted nodes.
func (j *joiner) resume(ctx context.Context, adopt bool) {
	entries, _ := os.ReadDir(filepath.Join(j.directory, "nodes"))
	for _, entry := range entries {
		vmid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		g, found := j.guests.find(vmid)
		known := j.readRecord(vmid)
		if known != nil && known.Adopted == "" && known.Node != "" {
			j.keeper.exclude(known.Node)
		}
		if !found || !g.running() || known == nil || known.Adopted != "" {
			continue
		}
		root := filepath.Join(j.vmDirectory(vmid), "root")
		if _, err := os.Stat(filepath.Join(root, kubeletConf)); err == nil {
			j.boot(g)
		}
	}
	if adopt {
		j.remember(ctx)
	}
}

// remember notes for every machine of an adopted node that its disk is a cluster member's: such a machine
// comes back when it is switched on again, even after its Node was deleted.
func (j *joiner) remember(ctx context.Context) {
	nodes, err := j.admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		logf("joiner: nodes not listed: %s", scrub(err.Error()))
		return
	}
	for _, node := range nodes.Items {
		vmid, ok := parseProviderID(node.Spec.ProviderID)
		var g guest
		if ok {
			g, ok = j.guests.find(vmid)
		} else {
			g, ok = j.guests.findByName(node.Name)
		}
		if !ok || j.readRecord(g.VMID) != nil {
			continue
		}
		known := &record{Disk: systemDisk(g), UUID: smbiosUUID(g.setting("smbios1")), Hostname: node.Name, Adopted: node.Name}
		if s, err := j.guests.seed(ctx, g.VMID); err == nil && s != nil {
			known.Instance = instanceID(s)
		}
		if err := j.writeRecord(g.VMID, known); err != nil {
			logf("joiner: %d: %s", g.VMID, err)
		}
	}
}

// comeBack registers the node of an adopted machine again if it was deleted: with the labels that a
// kubelet gives itself and nothing else, which is how a removed worker returns after a power cut.
func (j *joiner) comeBack(ctx context.Context, m *machine) error {
	_, err := j.admin.CoreV1().Nodes().Get(ctx, m.flags.nodeName, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	logf("joiner: %d registers %s again", m.vmid, m.flags.nodeName)
	if !registerNode(ctx, j.admin, m.node(), func(err error) { logf("joiner: %d: %s", m.vmid, scrub(err.Error())) }) {
		return errors.New("switched off")
	}
	return nil
}

func instanceID(s *seed) string {
	for _, line := range strings.Split(s.MetaData, "\n") {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "instance-id:"); ok {
			return strings.Trim(strings.TrimSpace(id), `"'`)
		}
	}
	return ""
}
