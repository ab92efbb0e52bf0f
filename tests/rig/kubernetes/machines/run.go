package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

type runOptions struct {
	kubeconfig, state, pve, pveCertificate, pveToken, control string
	cloudInit, kubeletVersion                                 string
	adopt, forgetGone                                         bool
	leaseSeconds                                              int
	driverDelay, readyDelay, graceLimit, poll                 time.Duration
	discoveryTimeout, bootstrapTimeout, attachRetryMax        time.Duration
}

// pinnedVersion is the version of k8s.io/kubernetes in go.mod, which go.mod's name for it must equal.
const pinnedVersion = "v1.36.3"

func runCommand(arguments []string) error {
	var o runOptions
	var region string
	flags := flag.NewFlagSet("machines run", flag.ExitOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `FILE` of an administrator")
	flags.StringVar(&o.state, "state", "", "`DIR` for what machines remember")
	flags.StringVar(&o.pve, "pve", "", "`URL` of the Proxmox VE API")
	flags.StringVar(&o.pveCertificate, "pve-certificate", "", "PEM `FILE` that the API's certificate must chain to")
	flags.StringVar(&o.pveToken, "pve-token-file", "", "`FILE` with user@realm!id=secret")
	flags.StringVar(&o.control, "control", "", "`URL` of the double's control interface")
	flags.BoolVar(&o.adopt, "adopt", false, "keep Nodes alive that no machine here registered")
	flags.StringVar(&region, "region", "", "accepted and not needed: the region stands in each providerID")
	flags.StringVar(&o.cloudInit, "cloud-init", "cloud-init", "the cloud-init `program` that checks seeds; empty checks nothing")
	flags.StringVar(&o.kubeletVersion, "kubelet-version", pinnedVersion, "version that joined nodes report")
	flags.IntVar(&o.leaseSeconds, "lease-seconds", 10, "seconds between two renewals of a node's lease")
	flags.DurationVar(&o.driverDelay, "driver-delay", 2*time.Second, "time from a node's registration to the CSI driver's")
	flags.DurationVar(&o.readyDelay, "ready-delay", 1500*time.Millisecond, "time from a node's registration to Ready")
	flags.DurationVar(&o.graceLimit, "grace", time.Second, "longest time that a deleted pod takes to end")
	flags.DurationVar(&o.poll, "poll", time.Second, "time between two looks at the double's machines")
	flags.DurationVar(&o.discoveryTimeout, "discovery-timeout", 30*time.Second, "longest discovery of kubeadm join (kubeadm: 5m)")
	flags.DurationVar(&o.bootstrapTimeout, "bootstrap-timeout", time.Minute, "longest TLS bootstrap of kubeadm join (kubeadm: 5m)")
	flags.DurationVar(&o.attachRetryMax, "attach-retry-max", 5*time.Second, "longest pause between two attempts to attach (external-attacher: 5m)")
	flags.BoolVar(&o.forgetGone, "forget-gone-nodes", false, "leave disks behind when their Node object is gone, as the plugin does")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	for name, value := range map[string]string{"kubeconfig": o.kubeconfig, "state": o.state, "pve": o.pve,
		"pve-certificate": o.pveCertificate, "pve-token-file": o.pveToken, "control": o.control} {
		if value == "" {
			return fmt.Errorf("--%s is missing", name)
		}
	}
	if o.leaseSeconds < 1 {
		return fmt.Errorf("--lease-seconds must be at least 1")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return run(ctx, o)
}

func run(ctx context.Context, o runOptions) error {
	// kubeadm's code prints to standard output, which carries one JSON line here and nothing else.
	output := os.Stdout
	os.Stdout = os.Stderr
	klog.LogToStderr(true)
	if o.cloudInit != "" {
		program, err := exec.LookPath(o.cloudInit)
		if err != nil {
			return fmt.Errorf("--cloud-init: %w", err)
		}
		o.cloudInit = program
	}
	state, err := filepath.Abs(o.state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(state, "nodes"), 0o700); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 300, 600
	config.UserAgent = "rig-machines"
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pve, err := newPVEClient(o.pve, o.pveCertificate, o.pveToken)
	if err != nil {
		return err
	}

	factory := informers.NewSharedInformerFactory(admin, 0)
	core, storage := factory.Core().V1(), factory.Storage().V1()
	pods := core.Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{byNode: func(object any) ([]string, error) {
		if pod, ok := object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}}); err != nil {
		return err
	}

	guests := newGuestWatcher(o.control, state)
	nodes := newKeeper(admin, core.Nodes().Lister(), guests)
	nodes.adopt, nodes.lease, nodes.readyDelay = o.adopt, time.Duration(o.leaseSeconds)*time.Second, o.readyDelay
	nodes.driver = &driverRegistrar{delay: o.driverDelay}

	plugin := newAttacher(admin, pve, o.attachRetryMax)
	plugin.poison = guests.poison
	plugin.attachments, plugin.nodes, plugin.csiNodes = storage.VolumeAttachments().Lister(), core.Nodes().Lister(), storage.CSINodes().Lister()
	plugin.volumes, plugin.forgetGone = core.PersistentVolumes().Lister(), o.forgetGone

	actor := newPodActor()
	actor.keeper, actor.pods, actor.index, actor.nodes = nodes, core.Pods().Lister(), pods.GetIndexer(), core.Nodes().Lister()
	actor.graceLimit, actor.plugged = o.graceLimit, plugin.plugged
	actor.volumes = &podVolumes{
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		drivers: storage.CSIDrivers().Lister(), attachments: storage.VolumeAttachments().Lister(),
	}
	nodes.changed = actor.nodeEvent

	join := &joiner{
		admin: admin, guests: guests, keeper: nodes, directory: state, schema: o.cloudInit, version: o.kubeletVersion,
		discovery: o.discoveryTimeout, bootstrap: o.bootstrapTimeout, ctx: ctx, boots: map[int]context.CancelFunc{},
	}
	guests.boot = join.boot

	listen(pods, actor.podEvent)
	attachments := storage.VolumeAttachments().Informer()
	if _, err := attachments.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { attachmentEvent(plugin, actor, nil, object) },
		UpdateFunc: func(before, object any) {
			old, _ := before.(*storagev1.VolumeAttachment)
			attachmentEvent(plugin, actor, old, object)
		},
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the informer of %s did not sync", kind)
		}
	}
	if err := guests.poll(ctx); err != nil {
		return fmt.Errorf("the control interface: %w", err)
	}
	join.resume(ctx, o.adopt)
	go guests.run(ctx, o.poll)
	go nodes.run(ctx)
	go plugin.run(ctx)
	go actor.run(ctx, 4)
	line, err := json.Marshal(map[string]bool{"ready": true})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(output, string(line)); err != nil {
		return err
	}
	logf("run: ready")
	<-ctx.Done()
	logf("run: ends")
	return nil
}

func listen(informer cache.SharedIndexInformer, event func(object any, gone bool)) {
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { event(object, false) },
		UpdateFunc: func(_, object any) { event(object, false) },
		DeleteFunc: func(object any) { event(object, true) },
	})
}

// attachmentEvent queues an attachment unless only its errors changed: the external-attacher's
// shouldEnqueueVAChange, without which each saved error would start the next attempt at once.
func attachmentEvent(plugin *attacher, actor *podActor, old *storagev1.VolumeAttachment, object any) {
	va, ok := object.(*storagev1.VolumeAttachment)
	if !ok {
		return
	}
	if old == nil || old.ResourceVersion == va.ResourceVersion || old.Status.Attached != va.Status.Attached ||
		(old.DeletionTimestamp == nil) != (va.DeletionTimestamp == nil) || !slices.Equal(old.Finalizers, va.Finalizers) {
		plugin.queue.Add(va.Name)
	}
	if old == nil || old.Status.Attached != va.Status.Attached {
		actor.nodeEvent(va.Spec.NodeName)
	}
}
