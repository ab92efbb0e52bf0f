package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// silentAnnotation on a Node makes its machine fall silent: no lease, no status, no pod moves.
const silentAnnotation = "rig.capplan.test/silent"

// identity is a node that this program keeps alive, with the credential it does so with: the
// administrator's for a node that existed before, the issued certificate for one that joined.
type identity struct {
	name   string
	client kubernetes.Interface
	// vmid is the machine of a joined node; 0 for an adopted one, whose machine is looked up.
	vmid int
	// driverDone is set once the CSI driver of this boot has registered; it is not asked again.
	driverDone *atomic.Bool
	// machine describes a joined node's own status; nil for an adopted one, whose status stays as it is.
	machine *machine
	// starts is the count of power-ons of the boot that this identity belongs to.
	starts int
	// registered is false until the kubelet of a joined node has registered it.
	registered bool
}

// keeper keeps nodes alive: their leases and their Ready condition.
type keeper struct {
	admin  kubernetes.Interface
	nodes  corelisters.NodeLister
	guests *guestWatcher
	lease  time.Duration
	adopt  bool
	// readyDelay is how long a kubelet takes from its registration to its first Ready=True.
	readyDelay time.Duration
	// changed is called when a node came to life or fell silent.
	changed func(node string)

	mu      sync.Mutex
	lives   map[string]*life
	hadVM   map[string]bool
	foreign map[string]bool
	driver  *driverRegistrar
}

// life is the running state of one kept node.
type life struct {
	identity
	// cancel ends the lease controller and the status loop; nil while the node is silent.
	cancel context.CancelFunc
}

func newKeeper(admin kubernetes.Interface, nodes corelisters.NodeLister, guests *guestWatcher) *keeper {
	return &keeper{admin: admin, nodes: nodes, guests: guests, lives: map[string]*life{}, hadVM: map[string]bool{}, foreign: map[string]bool{}, changed: func(string) {}}
}

// keep adds a node or replaces its credential.
func (k *keeper) keep(id identity) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.lives[id.name]; old != nil && old.cancel != nil {
		old.cancel()
	}
	id.driverDone = &atomic.Bool{}
	k.lives[id.name] = &life{identity: id}
}

// exclude keeps a node from being adopted: a machine serves it, or one has left it for good.
func (k *keeper) exclude(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.foreign[name] = true
	if old := k.lives[name]; old != nil && old.vmid == 0 {
		if old.cancel != nil {
			old.cancel()
		}
		delete(k.lives, name)
	}
}

// forget drops a node that its machine will not serve again, unless another machine serves it by now.
func (k *keeper) forget(name string, vmid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.lives[name]; old != nil && old.vmid == vmid {
		if old.cancel != nil {
			old.cancel()
		}
		delete(k.lives, name)
	}
}

// alive answers the client of a live node.
func (k *keeper) alive(name string) (kubernetes.Interface, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.lives[name]
	if l == nil || l.cancel == nil {
		return nil, false
	}
	return l.client, true
}

// guestOf finds the machine of a node: a joined node's own, else the one that providerID names, else the
// one with the node's name.
func (k *keeper) guestOf(node *corev1.Node, id identity) (g guest, found, expected bool) {
	if id.vmid != 0 {
		g, found = k.guests.find(id.vmid)
		return g, found, true
	}
	if vmid, ok := parseProviderID(node.Spec.ProviderID); ok {
		g, found = k.guests.find(vmid)
		return g, found, true
	}
	g, found = k.guests.findByName(node.Name)
	if found {
		k.hadVM[node.Name] = true
	}
	return g, found, k.hadVM[node.Name]
}

// shouldLive says whether a node's machine runs and may speak. A node that never had a machine in the
// double stands for hardware elsewhere and lives.
func (k *keeper) shouldLive(node *corev1.Node, id identity) bool {
	if node.Annotations[silentAnnotation] == "true" {
		return false
	}
	g, found, expected := k.guestOf(node, id)
	if !found {
		return !expected
	}
	return g.running() && (id.vmid == 0 || g.Starts == id.starts)
}

// run looks at every kept node once a second and starts or stops its life.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (k *keeper) look(ctx context.Context) {
	nodes, err := k.nodes.List(everything)
	if err != nil {
		return
	}
	var changes []string
	k.mu.Lock()
	known := make(map[string]*corev1.Node, len(nodes))
	for _, node := range nodes {
		known[node.Name] = node
		if k.adopt && k.lives[node.Name] == nil && !k.foreign[node.Name] {
			k.lives[node.Name] = &life{identity: identity{name: node.Name, client: k.admin, registered: true, driverDone: &atomic.Bool{}}}
			logf("nodes: %s adopted", node.Name)
		}
	}
	for name, l := range k.lives {
		node := known[name]
		live := node != nil && l.registered && k.shouldLive(node, l.identity)
		switch {
		case node == nil && l.vmid == 0:
			// An adopted node whose object was deleted: its kubelet stays away, as one that nobody restarts.
			if l.cancel != nil {
				l.cancel()
			}
			delete(k.lives, name)
			changes = append(changes, name)
		case live && l.cancel == nil:
			scope, cancel := context.WithCancel(ctx)
			l.cancel = cancel
			go k.live(scope, l.identity, node.DeepCopy())
			changes = append(changes, name)
			logf("nodes: %s is kept alive", name)
		case !live && l.cancel != nil:
			l.cancel()
			l.cancel = nil
			changes = append(changes, name)
			logf("nodes: %s falls silent", name)
		}
	}
	k.mu.Unlock()
	for _, name := range changes {
		k.changed(name)
	}
}
