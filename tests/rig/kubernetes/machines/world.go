package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"
)

const (
	// driver is the name of proxmox-csi.
	driver = "csi.proxmox.sinextra.dev"
	// tick is how often each part looks at the world, which informers keep in memory.
	tick = 100 * time.Millisecond
)

// guest is a VM as the double's control API tells it.
type guest struct {
	VMID     int            `json:"vmid"`
	Name     string         `json:"name"`
	Node     string         `json:"node"`
	Power    string         `json:"power"`
	Template bool           `json:"template"`
	Starts   int            `json:"starts"`
	Config   map[string]any `json:"config"`
}

// identity tells a machine from another that got its VMID, and its disk from the next one: the first disk's
// volume and the SMBIOS UUID.
func (g *guest) identity() string {
	disk, _, _ := strings.Cut(g.option("scsi0"), ",")
	return disk + " " + g.uuid()
}

// uuid is the machine's SMBIOS UUID.
func (g *guest) uuid() string {
	for _, pair := range strings.Split(g.option("smbios1"), ",") {
		if value, found := strings.CutPrefix(pair, "uuid="); found {
			return strings.ToLower(value)
		}
	}
	return ""
}

// option is a value of the VM's configuration as text; numbers come without a fraction.
func (g *guest) option(name string) string {
	switch value := g.Config[name].(type) {
	case string:
		return value
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64)
	default:
		return ""
	}
}

// world is what all parts share.
type world struct {
	kube           kubernetes.Interface
	nodes          corelisters.NodeLister
	pods           corelisters.PodLister
	claims         corelisters.PersistentVolumeClaimLister
	volumes        corelisters.PersistentVolumeLister
	attachments    storagelisters.VolumeAttachmentLister
	csiNodes       storagelisters.CSINodeLister
	pve            *pve
	control        string
	state          string
	adopt          bool
	cloudInit      string
	kubeletVersion string
	leaseSeconds   int
	driverDelay    time.Duration
	discovery      time.Duration

	mutex  sync.Mutex
	guests []guest
	// joined has the client of each node that joined here: it acts with its own certificate.
	joined map[string]kubernetes.Interface
	// gone has the nodes whose machine got another disk: nobody speaks for them any more.
	gone map[string]bool
}

func runFlags(set *flag.FlagSet) func(context.Context) error {
	w := &world{joined: map[string]kubernetes.Interface{}, gone: map[string]bool{}}
	kubeconfig := set.String("kubeconfig", "", "kubeconfig of an administrator")
	set.StringVar(&w.state, "state", "", "folder of what the machines keep")
	address := set.String("pve", "", "address of the PVE API")
	certificate := set.String("pve-certificate", "", "its certificate")
	token := set.String("pve-token-file", "", "file with the attacher's token")
	set.StringVar(&w.control, "control", "", "control API of the double")
	set.BoolVar(&w.adopt, "adopt", false, "keep the nodes alive that are there already")
	set.StringVar(&w.cloudInit, "cloud-init", "cloud-init", "the cloud-init command")
	set.StringVar(&w.kubeletVersion, "kubelet-version", version.Get().GitVersion, "version the nodes that join report")
	set.IntVar(&w.leaseSeconds, "lease-seconds", 10, "how often a Lease is renewed (the kubelet: a quarter of 40 s)")
	set.DurationVar(&w.driverDelay, "driver-delay", 2*time.Second, "how long after its registration a node's CSI driver registers")
	set.DurationVar(&w.discovery, "discovery-timeout", 30*time.Second, "how long kubeadm looks for the cluster (its default: 5 min)")
	return func(ctx context.Context) error {
		config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
		if err != nil {
			return err
		}
		config.QPS, config.Burst = 500, 1000
		if w.kube, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
		if w.pve, err = newPVE(*address, *certificate, *token); err != nil {
			return err
		}
		return w.run(ctx)
	}
}

func (w *world) run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(w.kube, 0)
	core, storage := factory.Core().V1(), factory.Storage().V1()
	w.nodes, w.pods = core.Nodes().Lister(), core.Pods().Lister()
	w.claims, w.volumes = core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister()
	w.attachments, w.csiNodes = storage.VolumeAttachments().Lister(), storage.CSINodes().Lister()
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("cannot list %s", kind)
		}
	}
	if err := w.readGuests(ctx); err != nil {
		return err
	}
	joiner := newJoiner(w)
	if err := joiner.takeUp(); err != nil {
		return err
	}
	var parts sync.WaitGroup
	for _, step := range []func(context.Context){newHeart(w).beat, newPods(w).step, newAttacher(w).step, joiner.step, w.refresh} {
		parts.Go(func() { every(ctx, step) })
	}
	fmt.Println(`{"ready":true}`)
	parts.Wait()
	return nil
}

func every(ctx context.Context, step func(context.Context)) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			step(ctx)
		}
	}
}

func (w *world) refresh(ctx context.Context) {
	// A double that is being restarted has the same guests when it is back.
	_ = w.readGuests(ctx)
}

func (w *world) readGuests(ctx context.Context) error {
	var guests []guest
	if err := getJSON(ctx, w.control+"/guests", &guests); err != nil {
		return err
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.guests = guests
	return nil
}

func getJSON(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// guestOf finds the VM of a node as proxmox-csi does: by the VMID of its provider id, else by its name.
func (w *world) guestOf(node *corev1.Node) *guest {
	vmid := 0
	if rest, found := strings.CutPrefix(node.Spec.ProviderID, "proxmox://"); found {
		_, number, _ := strings.Cut(rest, "/")
		vmid, _ = strconv.Atoi(number)
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for index := range w.guests {
		one := w.guests[index]
		if one.VMID == vmid || (vmid == 0 && one.Name == node.Name && !one.Template) {
			return &one
		}
	}
	return nil
}

// guestList is a copy of the guests.
func (w *world) guestList() []guest {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return append([]guest(nil), w.guests...)
}

// clientOf is the client a node acts with, and whether the machines play this node at all.
func (w *world) clientOf(node string) (kubernetes.Interface, bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if client, found := w.joined[node]; found {
		return client, true
	}
	return w.kube, w.adopt && !w.gone[node]
}

// isAlive tells whether the node's machine runs and is not silenced by a test.
func (w *world) isAlive(node *corev1.Node) bool {
	if _, ours := w.clientOf(node.Name); !ours || node.Annotations["rig.capplan.test/silent"] == "true" {
		return false
	}
	guest := w.guestOf(node)
	return guest == nil || guest.Power == "running"
}

// keep writes a file of a VM.
func (w *world) keep(vmid int, name string, content []byte) error {
	folder := w.folder(vmid)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	half := filepath.Join(folder, name+".half")
	if err := os.WriteFile(half, content, 0o600); err != nil {
		return err
	}
	return os.Rename(half, filepath.Join(folder, name))
}

// folder has what the VM's disk would have.
func (w *world) folder(vmid int) string {
	return filepath.Join(w.state, "nodes", strconv.Itoa(vmid))
}
