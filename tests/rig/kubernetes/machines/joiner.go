package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// boot is what a VM's disk remembers, and what tests read: DIR/nodes/VMID/status.json.
type boot struct {
	VMID  int    `json:"vmid"`
	Name  string `json:"name"`
	Phase string `json:"phase"`
	Error string `json:"error,omitempty"`
	// Disk is the identity of the machine and disk that booted; another one has no certificate.
	Disk   string `json:"disk,omitempty"`
	Starts int    `json:"starts"`
	// Driver tells whether the CSI driver registered, which it does once.
	Driver bool `json:"driver,omitempty"`
}

// joiner boots VMs.
type joiner struct {
	*world
	mutex sync.Mutex
	boots map[int]*boot
}

func newJoiner(w *world) *joiner {
	return &joiner{world: w, boots: map[int]*boot{}}
}

// takeUp reads what an earlier run kept, and leaves alone the VMs that run already.
func (j *joiner) takeUp() error {
	for _, one := range j.guestList() {
		kept := &boot{VMID: one.VMID, Starts: one.Starts}
		if text, err := os.ReadFile(filepath.Join(j.folder(one.VMID), "status.json")); err == nil {
			if err := json.Unmarshal(text, kept); err != nil {
				return err
			}
			if kept.Phase == "ready" {
				if err := j.takeUpNode(kept); err != nil {
					return err
				}
			}
		}
		j.boots[one.VMID] = kept
	}
	if !j.adopt {
		return nil
	}
	nodes, err := j.nodes.List(labels.Everything())
	for _, node := range nodes {
		if vm := j.guestOf(node); vm != nil && j.boots[vm.VMID].Phase == "" {
			j.boots[vm.VMID] = &boot{VMID: vm.VMID, Name: node.Name, Phase: "adopted", Disk: vm.identity(), Starts: vm.Starts}
		}
	}
	return err
}

func (j *joiner) takeUpNode(kept *boot) error {
	client, err := clientFor(filepath.Join(j.folder(kept.VMID), "kubelet.conf"))
	if err != nil {
		return err
	}
	j.world.mutex.Lock()
	defer j.world.mutex.Unlock()
	j.joined[kept.Name] = client
	return nil
}

func clientFor(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (j *joiner) step(ctx context.Context) {
	for _, one := range j.guestList() {
		j.mutex.Lock()
		known := j.boots[one.VMID]
		if known == nil {
			known = &boot{VMID: one.VMID}
			j.boots[one.VMID] = known
		}
		booted := one.Power == "running" && !one.Template && one.Starts > known.Starts
		if booted {
			known.Starts = one.Starts
		}
		j.mutex.Unlock()
		if booted {
			go j.boot(ctx, one)
		}
	}
	j.registerDrivers(ctx)
}

// boot is one start of a VM. cloud-init runs once for a disk: a failed join is not tried again.
func (j *joiner) boot(ctx context.Context, vm guest) {
	j.mutex.Lock()
	known := *j.boots[vm.VMID]
	j.mutex.Unlock()
	if known.Phase != "" && known.Disk == vm.identity() {
		klog.Infof("VM %d: boots again as %s", vm.VMID, known.Name)
		j.note(known, known.Phase, nil)
		return
	}
	if known.Name != "" {
		j.world.mutex.Lock()
		delete(j.joined, known.Name)
		j.gone[known.Name] = true
		j.world.mutex.Unlock()
	}
	now := boot{VMID: vm.VMID, Name: vm.Name, Disk: vm.identity(), Starts: vm.Starts}
	_ = os.RemoveAll(j.folder(vm.VMID))
	var found seed
	if err := getJSON(ctx, fmt.Sprintf("%s/guests/%d/seed", j.control, vm.VMID), &found); err != nil {
		j.note(now, "failed", err)
		return
	}
	if found.Source == "none" || found.Error != nil {
		why := error(nil)
		if found.Error != nil {
			why = errors.New(*found.Error)
		}
		j.note(now, "no-seed", why)
		return
	}
	if err := os.MkdirAll(j.folder(vm.VMID), 0o700); err != nil {
		j.note(now, "failed", err)
		return
	}
	for _, part := range []struct {
		kind string
		text *string
	}{{"user-data", found.User}, {"vendor-data", found.Vendor}} {
		if part.text == nil {
			continue
		}
		if err := checkSchema(ctx, j.cloudInit, j.folder(vm.VMID), part.kind, *part.text); err != nil {
			j.note(now, "refused", err)
			return
		}
	}
	config, err := merged(&found)
	if err != nil {
		j.note(now, "refused", err)
		return
	}
	now.Name = hostname(config, found.Meta)
	root := filepath.Join(j.folder(vm.VMID), "root")
	if err := writeFiles(root, config.WriteFiles); err != nil {
		j.note(now, "refused", err)
		return
	}
	words, err := joinCommand(config)
	if err != nil {
		j.note(now, "no-seed", err)
		return
	}
	machine := &machine{joiner: j, vm: vm, boot: now, root: root, network: found.Network}
	if err := machine.join(ctx, words); err != nil {
		j.note(machine.boot, "failed", err)
		return
	}
	j.note(machine.boot, "ready", nil)
}

// note writes how far a VM is. Errors come from kubeadm, the kubelet and the server, which never repeat a token's secret.
func (j *joiner) note(now boot, phase string, err error) {
	now.Phase, now.Error = phase, ""
	if err != nil {
		now.Error = err.Error()
	}
	klog.Infof("VM %d (%s): %s %s", now.VMID, now.Name, phase, now.Error)
	j.mutex.Lock()
	now.Driver = j.boots[now.VMID] != nil && j.boots[now.VMID].Disk == now.Disk && j.boots[now.VMID].Driver
	kept := now
	j.boots[now.VMID] = &kept
	j.mutex.Unlock()
	text, failed := json.Marshal(now)
	if failed == nil {
		failed = j.keep(now.VMID, "status.json", text)
	}
	if failed != nil {
		klog.Errorf("VM %d: cannot keep its state: %v", now.VMID, failed)
	}
}

// registerDrivers lets the CSI driver of each node that joined register, a moment after the node did.
func (j *joiner) registerDrivers(ctx context.Context) {
	j.mutex.Lock()
	var waiting []boot
	for _, one := range j.boots {
		if one.Phase == "ready" && !one.Driver {
			waiting = append(waiting, *one)
		}
	}
	j.mutex.Unlock()
	for _, one := range waiting {
		node, err := j.nodes.Get(one.Name)
		client, ours := j.clientOf(one.Name)
		if err != nil || !ours || time.Since(node.CreationTimestamp.Time) < j.driverDelay {
			continue
		}
		if err := registerDriver(ctx, client, node); err != nil {
			// As the real one, whose container crashes and is started again.
			klog.Warningf("node %s: CSI driver: %v", one.Name, err)
			continue
		}
		j.mutex.Lock()
		j.boots[one.VMID].Driver = true
		kept := *j.boots[one.VMID]
		j.mutex.Unlock()
		j.note(kept, kept.Phase, nil)
	}
}

// number reads a whole number of the VM's configuration.
func (g *guest) number(name string, otherwise int64) int64 {
	if value, err := strconv.ParseInt(g.option(name), 10, 64); err == nil {
		return value
	}
	return otherwise
}
