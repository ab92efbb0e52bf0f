package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	nodehelper "k8s.io/kubernetes/pkg/util/node"
	podutil "k8s.io/kubernetes/pkg/util/pod"
)

var everything = labels.Everything()

const (
	// runForeverAnnotation keeps a Job's pod running.
	runForeverAnnotation = "rig.capplan.test/run-forever"
	// jobTime is how long a Job's pod runs.
	jobTime = time.Second
	// byNode is the index of pods by the node they are bound to.
	byNode = "node"
)

// podActor plays the part of the kubelet that concerns pods, for all live nodes.
type podActor struct {
	keeper  *keeper
	pods    corelisters.PodLister
	index   cache.Indexer
	nodes   corelisters.NodeLister
	volumes *podVolumes
	// plugged says whether a volume that counts as attached is really in the machine's configuration;
	// without its device the kubelet's mount fails and the pod stays in ContainerCreating.
	plugged func(ctx context.Context, node *corev1.Node, volume attachable) bool
	// graceLimit cuts the grace period of deleted pods.
	graceLimit time.Duration

	queue     workqueue.TypedRateLimitingInterface[string]
	nodeQueue workqueue.TypedRateLimitingInterface[string]

	mu       sync.Mutex
	ending   map[types.UID]time.Time
	started  map[types.UID]time.Time
	address  map[types.UID]string
	sequence int
}

func newPodActor() *podActor {
	limiter := func() workqueue.TypedRateLimiter[string] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 10*time.Second)
	}
	return &podActor{
		queue:     workqueue.NewTypedRateLimitingQueue(limiter()),
		nodeQueue: workqueue.NewTypedRateLimitingQueue(limiter()),
		ending:    map[types.UID]time.Time{}, started: map[types.UID]time.Time{}, address: map[types.UID]string{},
	}
}

// podEvent queues a pod and its node; a pod that is gone only its node, for volumesInUse.
func (a *podActor) podEvent(object any, gone bool) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	a.nodeQueue.Add(pod.Spec.NodeName)
	if !gone {
		a.queue.Add(pod.Namespace + "/" + pod.Name)
		return
	}
	a.mu.Lock()
	delete(a.ending, pod.UID)
	delete(a.started, pod.UID)
	delete(a.address, pod.UID)
	a.mu.Unlock()
}

// nodeEvent queues every pod of a node, after it came to life or an attachment of it changed.
func (a *podActor) nodeEvent(node string) {
	a.nodeQueue.Add(node)
	for _, pod := range a.podsOf(node) {
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodPending {
			a.queue.Add(pod.Namespace + "/" + pod.Name)
		}
	}
}

func (a *podActor) podsOf(node string) []*corev1.Pod {
	objects, err := a.index.ByIndex(byNode, node)
	if err != nil {
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(objects))
	for _, object := range objects {
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (a *podActor) run(ctx context.Context, workers int) {
	go work(ctx, a.nodeQueue, a.syncNode)
	for range workers {
		go work(ctx, a.queue, a.syncPod)
	}
	<-ctx.Done()
	a.queue.ShutDown()
	a.nodeQueue.ShutDown()
}

// work serves a queue: an error means again later, a positive time means again after it.
func work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], sync func(context.Context, string) (time.Duration, error)) {
	for {
		key, done := queue.Get()
		if done {
			return
		}
		after, err := sync(ctx, key)
		switch {
		case err != nil && ctx.Err() == nil:
			if !apierrors.IsConflict(err) {
				logf("%s: %s", key, scrub(err.Error()))
			}
			queue.AddRateLimited(key)
		case after > 0:
			queue.Forget(key)
			queue.AddAfter(key, after)
		default:
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (a *podActor) syncNode(ctx context.Context, name string) (time.Duration, error) {
	client, live := a.keeper.alive(name)
	node, err := a.nodes.Get(name)
	if !live || err != nil {
		return 0, nil
	}
	return 0, syncInUse(ctx, client, node, a.podsOf(name), a.volumes)
}

func (a *podActor) syncPod(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := strings.Cut(key, "/")
	pod, err := a.pods.Pods(namespace).Get(name)
	if err != nil || pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return 0, nil
	}
	client, live := a.keeper.alive(pod.Spec.NodeName)
	if !live {
		return 0, nil
	}
	node, err := a.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return 0, nil
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return a.end(ctx, client, pod)
	case finished(pod):
		return 0, nil
	case pod.Status.Phase == corev1.PodRunning && len(pod.Status.ContainerStatuses) > 0:
		return a.finishJob(ctx, client, pod)
	}
	return a.start(ctx, client, pod, node)
}

// start brings a pod to ContainerCreating and, once its volumes are there, to Running.
func (a *podActor) start(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, node *corev1.Node) (time.Duration, error) {
	hostIP := ""
	if ips, err := nodehelper.GetNodeHostIPs(node); err == nil {
		hostIP = ips[0].String()
	}
	list, ready := a.volumes.of(pod)
	for _, v := range list {
		if !a.volumes.attached(node.Name, v) || !a.plugged(ctx, node, v) {
			ready = false
			break
		}
	}
	if !ready {
		if len(pod.Status.ContainerStatuses) == 0 {
			if err := patchPod(ctx, client, pod, creatingStatus(pod, hostIP)); err != nil {
				return 0, err
			}
		}
		return time.Second, nil
	}
	podIP := hostIP
	if !pod.Spec.HostNetwork {
		podIP = a.podIP(pod, node)
	}
	if err := patchPod(ctx, client, pod, runningStatus(pod, hostIP, podIP)); err != nil {
		return 0, err
	}
	a.mu.Lock()
	a.started[pod.UID] = time.Now()
	a.mu.Unlock()
	logf("pods: %s/%s runs on %s", pod.Namespace, pod.Name, node.Name)
	return 0, nil
}

// finishJob lets a Job's pod that this program started succeed after its time.
func (a *podActor) finishJob(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (time.Duration, error) {
	a.mu.Lock()
	began, ours := a.started[pod.UID]
	a.mu.Unlock()
	if _, forever := pod.Annotations[runForeverAnnotation]; forever || !ours || !ownedByJob(pod) {
		return 0, nil
	}
	if left := jobTime - time.Since(began); left > 0 {
		return left, nil
	}
	return 0, patchPod(ctx, client, pod, endedStatus(pod, 0))
}

func ownedByJob(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "Job"
}

// exitTerminated is the code of a process that SIGTERM ended: 128 + 15.
const exitTerminated = 143

// end waits out the grace period and deletes the pod for good, as the kubelet does once its containers
// are gone. A pod that others wait for (a Job's, or one with finalizers) reports its end first.
func (a *podActor) end(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (time.Duration, error) {
	a.mu.Lock()
	seen, known := a.ending[pod.UID]
	if !known {
		seen = time.Now()
		a.ending[pod.UID] = seen
	}
	a.mu.Unlock()
	if left := grace(pod, a.graceLimit) - time.Since(seen); left > 0 && !finished(pod) {
		return left, nil
	}
	if !finished(pod) && (len(pod.Finalizers) > 0 || ownedByJob(pod)) {
		return 0, patchPod(ctx, client, pod, endedStatus(pod, exitTerminated))
	}
	if pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
		return 0, nil
	}
	now := int64(0)
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, err
	}
	logf("pods: %s/%s ended on %s", pod.Namespace, pod.Name, pod.Spec.NodeName)
	return 0, nil
}

func patchPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, status corev1.PodStatus) error {
	_, _, _, err := podutil.PatchPodStatus(ctx, client, pod.Namespace, pod.Name, pod.UID, pod.Status, status)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// podIP gives each pod an address of its own, from the node's pod range or from 10.244.0.0/16, which is
// what kubeadm's examples use.
func (a *podActor) podIP(pod *corev1.Pod, node *corev1.Node) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.address[pod.UID]; known != "" {
		return known
	}
	a.sequence++
	ip := fmt.Sprintf("10.244.%d.%d", a.sequence/250%256, a.sequence%250+2)
	if prefix, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil && prefix.Addr().Is4() && prefix.Bits() <= 24 {
		bytes := prefix.Addr().As4()
		bytes[3] = byte(a.sequence%250 + 2)
		ip = netip.AddrFrom4(bytes).String()
	}
	a.address[pod.UID] = ip
	return ip
}
