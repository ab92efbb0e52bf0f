//! Machine reassignment, ROADEF/EURO 2012: the nearest public test of plans whose every state must hold.
//!
//! A process that moves takes its transient resources on both machines until all is done, processes of a
//! service keep apart, services are spread and depend on each other. Simulated annealing over moves, swaps and
//! chains of two moves, feasible at every step, on two threads.
//!
//! `CAPPLAN_TEST_DATA=… cargo bench --bench reassignment [-- SECONDS [INSTANCE …]]`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the two searches meet.
const ROUNDS: u32 = 20;

/// Cost that the winner of the challenge reached in 60 s where that was measured, in 300 s elsewhere, and the
/// best lower bound that is published.
///
/// # Source
/// Team S41 (`harisgavranovic/roadef-challenge2012-S41`), bounds of team J12.
const KNOWN: [(&str, i64, i64); 10] = [
    ("a1_1", 44_306_501, 44_306_390),
    ("a1_2", 778_488_431, 777_530_730),
    ("a1_3", 583_006_422, 583_005_700),
    ("a1_4", 267_971_730, 242_387_530),
    ("a1_5", 727_578_310, 727_578_290),
    ("a2_1", 329, 0),
    ("a2_2", 764_855_995, 13_590_090),
    ("a2_3", 1_231_006_125, 521_441_700),
    ("a2_4", 1_680_615_349, 1_680_222_380),
    ("a2_5", 353_385_598, 307_035_180),
];

/// Resources of an instance of set A at most; an instance with fewer leaves the rest at zero.
const RESOURCES: usize = 12;
/// An amount of each resource.
type Load = [i64; RESOURCES];

struct Machine {
    neighbourhood: usize,
    location: usize,
    capacity: Load,
    safety: Load,
    move_cost: Vec<i64>,
}

struct Service {
    spread: usize,
    /// Services that must be in every neighbourhood where this one is.
    needs: Vec<usize>,
    /// Services that need this one.
    needed_by: Vec<usize>,
}

struct Process {
    service: usize,
    wants: Load,
    /// The same without transient resources.
    at_home: Load,
    move_cost: i64,
}

struct Balance {
    first: usize,
    second: usize,
    target: i64,
    weight: i64,
}

struct Instance {
    transient: [bool; RESOURCES],
    load_weight: Load,
    machines: Vec<Machine>,
    services: Vec<Service>,
    processes: Vec<Process>,
    balances: Vec<Balance>,
    process_weight: i64,
    service_weight: i64,
    machine_weight: i64,
    home: Vec<usize>,
    locations: usize,
    neighbourhoods: usize,
}

/// Reads an amount of each resource.
fn load(resources: usize, mut next: impl FnMut() -> i64) -> Load {
    std::array::from_fn(|resource| if resource < resources { next() } else { 0 })
}

impl Instance {
    fn read(model: &Path, assignment: &Path) -> Self {
        let numbers = |path: &Path| -> Vec<i64> {
            let text = std::fs::read_to_string(path).expect("the instance is readable");
            text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
        };
        let mut words = numbers(model).into_iter();
        let mut next = || words.next().expect("the model is whole");
        let size = |number: i64| usize::try_from(number).expect("a count");
        let resources = size(next());
        let (mut transient, mut load_weight) = ([false; RESOURCES], [0; RESOURCES]);
        for resource in 0..resources {
            (transient[resource], load_weight[resource]) = (next() == 1, next());
        }
        let count = size(next());
        let mut machines = Vec::new();
        for _ in 0..count {
            let (neighbourhood, location) = (size(next()), size(next()));
            let (capacity, safety) = (load(resources, &mut next), load(resources, &mut next));
            let move_cost = (0..count).map(|_| next()).collect();
            machines.push(Machine { neighbourhood, location, capacity, safety, move_cost });
        }
        let count = size(next());
        let mut services: Vec<Service> = Vec::new();
        for _ in 0..count {
            let spread = size(next());
            let needs = (0..next()).map(|_| size(next())).collect();
            services.push(Service { spread, needs, needed_by: Vec::new() });
        }
        for service in 0..services.len() {
            for need in services[service].needs.clone() {
                services[need].needed_by.push(service);
            }
        }
        let count = size(next());
        let mut processes = Vec::new();
        for _ in 0..count {
            let service = size(next());
            let wants = load(resources, &mut next);
            let at_home = std::array::from_fn(|one| if transient[one] { 0 } else { wants[one] });
            processes.push(Process { service, wants, at_home, move_cost: next() });
        }
        let count = size(next());
        let mut balances = Vec::new();
        for _ in 0..count {
            let (first, second, target, weight) = (size(next()), size(next()), next(), next());
            balances.push(Balance { first, second, target, weight });
        }
        let (process_weight, service_weight, machine_weight) = (next(), next(), next());
        let home = numbers(assignment).into_iter().map(size).collect();
        let locations = machines.iter().map(|one| one.location).max().unwrap_or(0) + 1;
        let neighbourhoods = machines.iter().map(|one| one.neighbourhood).max().unwrap_or(0) + 1;
        Self {
            transient,
            load_weight,
            machines,
            services,
            processes,
            balances,
            process_weight,
            service_weight,
            machine_weight,
            home,
            locations,
            neighbourhoods,
        }
    }

    /// Cost of an assignment, from the definition; `None` if it breaks a rule.
    fn cost(&self, at: &[usize]) -> Option<i64> {
        let mut used = vec![[0; RESOURCES]; self.machines.len()];
        let mut also = used.clone();
        let mut moved = vec![0; self.services.len()];
        let mut sum = 0;
        for (number, process) in self.processes.iter().enumerate() {
            let (home, now) = (self.home[number], at[number]);
            for resource in 0..RESOURCES {
                used[now][resource] += process.wants[resource];
                if home != now && self.transient[resource] {
                    also[home][resource] += process.wants[resource];
                }
            }
            if home != now {
                moved[process.service] += 1;
                sum += self.process_weight * process.move_cost + self.machine_weight * self.machines[home].move_cost[now];
            }
        }
        sum += self.service_weight * moved.iter().copied().max().unwrap_or(0);
        for (number, machine) in self.machines.iter().enumerate() {
            let fits = (0..RESOURCES).all(|one| used[number][one] + also[number][one] <= machine.capacity[one]);
            if !fits {
                return None;
            }
            sum += self.machine_cost(number, &used[number]);
        }
        for (number, service) in self.services.iter().enumerate() {
            let mine = || self.processes.iter().zip(at).filter(move |(one, _)| one.service == number).map(|(_, now)| *now);
            let unique: std::collections::BTreeSet<usize> = mine().collect();
            let places: std::collections::BTreeSet<usize> = mine().map(|now| self.machines[now].location).collect();
            let near = |service: usize| -> std::collections::BTreeSet<usize> {
                let theirs = self.processes.iter().zip(at).filter(|(one, _)| one.service == service);
                theirs.map(|(_, now)| self.machines[*now].neighbourhood).collect()
            };
            if unique.len() != mine().count() || places.len() < service.spread {
                return None;
            }
            if !service.needs.iter().all(|need| near(number).is_subset(&near(*need))) {
                return None;
            }
        }
        Some(sum)
    }

    /// What a process takes on a machine when it comes: its transient resources are at home in any case.
    fn takes(&self, process: usize, machine: usize) -> &Load {
        let one = &self.processes[process];
        if self.home[process] == machine { &one.at_home } else { &one.wants }
    }

    /// Load and balance cost of a machine that is used so.
    fn machine_cost(&self, number: usize, used: &Load) -> i64 {
        let machine = &self.machines[number];
        let over = |resource: usize| (used[resource] - machine.safety[resource]).max(0) * self.load_weight[resource];
        let free = |resource: usize| machine.capacity[resource] - used[resource];
        let tilt = |one: &Balance| (one.target * free(one.first) - free(one.second)).max(0) * one.weight;
        (0..RESOURCES).map(over).sum::<i64>() + self.balances.iter().map(tilt).sum::<i64>()
    }
}

/// An assignment with everything that is needed to judge a move quickly.
#[derive(Clone)]
struct Search<'i> {
    instance: &'i Instance,
    at: Vec<usize>,
    used: Vec<Load>,
    /// What is left beside those and the transient resources of processes that left.
    free: Vec<Load>,
    /// Processes by machine, and where each stands in that list.
    here: Vec<Vec<usize>>,
    seat: Vec<usize>,
    machine_cost: Vec<i64>,
    /// Processes by service and machine, location, neighbourhood.
    on: Vec<Vec<u16>>,
    places: Vec<Vec<u16>>,
    near: Vec<Vec<u16>>,
    spread: Vec<usize>,
    moved: Vec<usize>,
    /// Services by the number of their processes that moved.
    moved_so: Vec<usize>,
    most_moved: usize,
    cost: i64,
}

impl<'i> Search<'i> {
    fn new(instance: &'i Instance) -> Self {
        let (machines, services) = (instance.machines.len(), instance.services.len());
        let mut search = Self {
            instance,
            at: instance.home.clone(),
            used: vec![[0; RESOURCES]; machines],
            free: instance.machines.iter().map(|one| one.capacity).collect(),
            here: vec![Vec::new(); machines],
            seat: vec![0; instance.processes.len()],
            machine_cost: vec![0; machines],
            on: vec![vec![0; machines]; services],
            places: vec![vec![0; instance.locations]; services],
            near: vec![vec![0; instance.neighbourhoods]; services],
            spread: vec![0; services],
            moved: vec![0; services],
            moved_so: vec![0; instance.processes.len() + 1],
            most_moved: 0,
            cost: 0,
        };
        search.moved_so[0] = services;
        for (process, home) in instance.home.iter().enumerate() {
            let one = &instance.processes[process];
            let kept = one.wants.iter().zip(&one.at_home).map(|(want, at_home)| want - at_home);
            search.free[*home].iter_mut().zip(kept).for_each(|(free, kept)| *free -= kept);
            search.count(process, *home, true);
        }
        for machine in 0..machines {
            search.machine_cost[machine] = instance.machine_cost(machine, &search.used[machine]);
            search.cost += search.machine_cost[machine];
        }
        search
    }

    /// Counts a process in or out of a machine: not its moves.
    fn count(&mut self, process: usize, machine: usize, arrives: bool) {
        let one = &self.instance.processes[process];
        let place = &self.instance.machines[machine];
        for (used, want) in self.used[machine].iter_mut().zip(&one.wants) {
            *used += if arrives { *want } else { -want };
        }
        for (free, want) in self.free[machine].iter_mut().zip(self.instance.takes(process, machine)) {
            *free -= if arrives { *want } else { -want };
        }
        if arrives {
            self.seat[process] = self.here[machine].len();
            self.here[machine].push(process);
        } else {
            let seat = self.seat[process];
            self.here[machine].swap_remove(seat);
            if let Some(other) = self.here[machine].get(seat) {
                self.seat[*other] = seat;
            }
        }
        let step = |count: &mut u16| if arrives { *count += 1 } else { *count -= 1 };
        step(&mut self.on[one.service][machine]);
        let before = self.places[one.service][place.location] > 0;
        step(&mut self.places[one.service][place.location]);
        let after = self.places[one.service][place.location] > 0;
        self.spread[one.service] = self.spread[one.service] + usize::from(after) - usize::from(before);
        step(&mut self.near[one.service][place.neighbourhood]);
    }

    /// Whether a process may leave for another machine, as far as services ask; `without` has left already.
    fn services_allow(&self, process: usize, to: usize) -> bool {
        let instance = self.instance;
        let service = instance.processes[process].service;
        let (from, target) = (&instance.machines[self.at[process]], &instance.machines[to]);
        if self.on[service][to] > 0 {
            return false;
        }
        if from.location != target.location {
            let lost = usize::from(self.places[service][from.location] == 1);
            let won = usize::from(self.places[service][target.location] == 0);
            if self.spread[service] + won < instance.services[service].spread + lost {
                return false;
            }
        }
        if from.neighbourhood != target.neighbourhood {
            let rules = &instance.services[service];
            if rules.needs.iter().any(|need| self.near[*need][target.neighbourhood] == 0) {
                return false;
            }
            let last = self.near[service][from.neighbourhood] == 1;
            if last && rules.needed_by.iter().any(|other| *other != service && self.near[*other][from.neighbourhood] > 0) {
                return false;
            }
        }
        true
    }

    /// Whether a machine has room for a process, once `leaving` has left it.
    fn has_room(&self, process: usize, to: usize, leaving: Option<usize>) -> bool {
        let free = &self.free[to];
        let takes = self.instance.takes(process, to);
        match leaving {
            None => free.iter().zip(takes).all(|(free, take)| take <= free),
            Some(other) => {
                let back = self.instance.takes(other, to);
                free.iter().zip(takes).zip(back).all(|((free, take), back)| *take <= free + back)
            }
        }
    }

    /// Cost of a machine once `arrives` came and `leaves` left.
    fn cost_with(&self, machine: usize, arrives: Option<usize>, leaves: Option<usize>) -> i64 {
        let mut used = self.used[machine];
        for (process, sign) in [(arrives, 1), (leaves, -1)] {
            if let Some(process) = process {
                let wants = &self.instance.processes[process].wants;
                used.iter_mut().zip(wants).for_each(|(used, want)| *used += sign * want);
            }
        }
        self.instance.machine_cost(machine, &used)
    }

    fn move_cost(&self, process: usize, to: usize) -> i64 {
        let instance = self.instance;
        let home = instance.home[process];
        if home == to {
            return 0;
        }
        instance.process_weight * instance.processes[process].move_cost
            + instance.machine_weight * instance.machines[home].move_cost[to]
    }

    fn carry_out(&mut self, process: usize, to: usize) {
        let instance = self.instance;
        let (home, from) = (instance.home[process], self.at[process]);
        self.count(process, from, false);
        self.count(process, to, true);
        self.at[process] = to;
        let sign = match (from == home, to == home) {
            (true, false) => 1,
            (false, true) => -1,
            _ => return,
        };
        let service = instance.processes[process].service;
        self.moved_so[self.moved[service]] -= 1;
        self.moved[service] = self.moved[service].saturating_add_signed(if sign > 0 { 1 } else { -1 });
        self.moved_so[self.moved[service]] += 1;
        self.most_moved = self.most_moved.max(self.moved[service]);
        while self.most_moved > 0 && self.moved_so[self.most_moved] == 0 {
            self.most_moved -= 1;
        }
    }

    /// Moves a process if `accept` likes the change of the cost.
    fn shift(&mut self, process: usize, to: usize, mut accept: impl FnMut(i64) -> bool) -> bool {
        let from = self.at[process];
        let service = self.instance.processes[process].service;
        if from == to || self.on[service][to] > 0 || !self.has_room(process, to, None) || !self.services_allow(process, to) {
            return false;
        }
        let costs = [(from, self.cost_with(from, None, Some(process))), (to, self.cost_with(to, Some(process), None))];
        let delta = self.delta(&costs, &[(process, to)]);
        // Most are refused here, and nothing is to be taken back.
        if !accept(delta) {
            return false;
        }
        let most = self.most_moved;
        self.carry_out(process, to);
        if self.settle(delta, most, &costs, &mut accept) {
            return true;
        }
        self.carry_out(process, from);
        false
    }

    /// Moves a process to where another is, and that one elsewhere: to the first one's machine or to a third.
    fn displace(&mut self, one: usize, other: usize, to: usize, mut accept: impl FnMut(i64) -> bool) -> bool {
        let (from, between) = (self.at[one], self.at[other]);
        let services = [one, other].map(|process| self.instance.processes[process].service);
        let swaps = to == from;
        if from == between || to == between || (swaps && services[0] == services[1]) {
            return false;
        }
        if self.on[services[1]][to] > 0 || (self.on[services[0]][between] > 0 && services[0] != services[1]) {
            return false;
        }
        if !self.has_room(one, between, Some(other)) || !self.has_room(other, to, swaps.then_some(one)) {
            return false;
        }
        let left = self.cost_with(from, swaps.then_some(other), Some(one));
        let changed = self.cost_with(between, Some(one), Some(other));
        let third = if swaps { left } else { self.cost_with(to, Some(other), None) };
        let costs = [(from, left), (between, changed), (to, third)];
        let costs = if swaps { &costs[..2] } else { &costs[..] };
        let delta = self.delta(costs, &[(one, between), (other, to)]);
        if !accept(delta) || !self.services_allow(other, to) {
            return false;
        }
        let most = self.most_moved;
        self.carry_out(other, to);
        if self.services_allow(one, between) {
            self.carry_out(one, between);
            if self.settle(delta, most, costs, &mut accept) {
                return true;
            }
            self.carry_out(one, from);
        }
        self.carry_out(other, between);
        false
    }

    /// Change of the cost but for that of services.
    fn delta(&self, costs: &[(usize, i64)], moves: &[(usize, usize)]) -> i64 {
        let machines: i64 = costs.iter().map(|(machine, cost)| cost - self.machine_cost[*machine]).sum();
        let price = |(process, to): &(usize, usize)| self.move_cost(*process, *to) - self.move_cost(*process, self.at[*process]);
        machines + moves.iter().map(price).sum::<i64>()
    }

    /// Takes what was carried out into the cost, unless that of services spoils it.
    fn settle(&mut self, delta: i64, most_before: usize, costs: &[(usize, i64)], mut accept: impl FnMut(i64) -> bool) -> bool {
        let delta = delta + (self.most_moved as i64 - most_before as i64) * self.instance.service_weight;
        let taken = accept(delta);
        if taken {
            self.cost += delta;
            costs.iter().for_each(|(machine, cost)| self.machine_cost[*machine] = *cost);
        }
        taken
    }
}

/// How an instance is cooled.
struct Schedule {
    hot: f64,
    cold: f64,
    /// Processes and the load cost that each can cause at most, the largest first.
    largest: Vec<(usize, f64)>,
}

impl Schedule {
    /// From what chance moves change: most changes are small, and the landscape is as steep as the rare large ones.
    fn of(instance: &Instance) -> Self {
        let mut rng = fastrand::Rng::with_seed(0);
        let mut search = Search::new(instance);
        let mut worse: Vec<i64> = Vec::new();
        for _ in 0..200_000 {
            let note = |delta| {
                worse.push(delta);
                false
            };
            search.shift(rng.usize(..instance.processes.len()), rng.usize(..instance.machines.len()), note);
        }
        worse.retain(|delta| *delta > 0);
        worse.sort_unstable();
        let rank = |part: f64| worse.get((worse.len() as f64 * part) as usize).copied().unwrap_or(1) as f64;
        let weight =
            |one: &Process| -> i64 { one.wants.iter().zip(&instance.load_weight).map(|(want, weight)| want * weight).sum() };
        let mut largest: Vec<(usize, f64)> = instance.processes.iter().map(|one| weight(one) as f64).enumerate().collect();
        largest.sort_by(|one, other| other.1.total_cmp(&one.1));
        Self { hot: rank(0.999) * 2.0, cold: (rank(0.5) * 0.03).max(0.05), largest }
    }

    /// Temperature when this part of the time is over.
    fn temperature(&self, part: f64) -> f64 {
        self.hot * (self.cold / self.hot).powf(part)
    }

    /// How many processes are so large that their place is decided at this temperature.
    fn large(&self, temperature: f64) -> usize {
        self.largest.partition_point(|(_, weight)| *weight > temperature).max(20).min(self.largest.len())
    }
}

/// A search on its way.
#[derive(Clone)]
struct Walk<'i> {
    search: Search<'i>,
    rng: fastrand::Rng,
    best: (Vec<usize>, i64),
}

impl<'i> Walk<'i> {
    fn new(instance: &'i Instance, seed: u64) -> Self {
        let search = Search::new(instance);
        let best = (search.at.clone(), search.cost);
        Self { search, rng: fastrand::Rng::with_seed(seed), best }
    }

    /// Goes on until this part of the time is over.
    fn go(&mut self, schedule: &Schedule, started: Instant, time: Duration, until: f64) {
        let (mut temperature, mut large) = (0.0, 0);
        for steps in 0_u64.. {
            if steps & 0x3ff == 0 {
                let part = started.elapsed().as_secs_f64() / time.as_secs_f64();
                if part >= until {
                    break;
                }
                temperature = schedule.temperature(part);
                large = schedule.large(temperature);
            }
            self.step(schedule, temperature, large);
            if self.search.cost < self.best.1 {
                self.best.1 = self.search.cost;
                self.best.0.clone_from(&self.search.at);
            }
        }
    }

    fn step(&mut self, schedule: &Schedule, temperature: f64, large: usize) {
        let (search, rng) = (&mut self.search, &mut self.rng);
        let instance = search.instance;
        let (processes, machines) = (instance.processes.len(), instance.machines.len());
        let luck = rng.f64();
        let accept = |delta: i64| delta <= 0 || (-(delta as f64) / temperature).exp() > luck;
        let process = if rng.u8(..10) < 4 { schedule.largest[rng.usize(..large)].0 } else { rng.usize(..processes) };
        // Transient resources at home limit how much can be away at a time: what comes home makes room.
        let homeward = instance.transient.contains(&true) && rng.u8(..10) < 3;
        let target = if homeward { instance.home[process] } else { rng.usize(..machines) };
        let kind = rng.u8(..10);
        if kind < 3 {
            search.shift(process, target, accept);
        } else if let Some(other) = rng.choice(search.here[target].iter().copied()) {
            if kind < 6 {
                search.displace(process, other, search.at[process], accept);
            } else {
                (0..4).any(|_| search.displace(process, other, rng.usize(..machines), accept));
            }
        }
    }
}

/// The best assignment found in `time`, and its cost: two searches, of which the worse one takes over where the
/// better one is, [`ROUNDS`] times.
fn anneal(instance: &Instance, time: Duration) -> (Vec<usize>, i64) {
    let started = Instant::now();
    let schedule = Schedule::of(instance);
    let mut walks = [1, 2].map(|seed| Walk::new(instance, seed));
    for round in 1..=ROUNDS {
        let until = f64::from(round) / f64::from(ROUNDS);
        std::thread::scope(|scope| {
            for walk in &mut walks {
                scope.spawn(|| walk.go(&schedule, started, time, until));
            }
        });
        let [one, other] = &mut walks;
        match one.search.cost.cmp(&other.search.cost) {
            std::cmp::Ordering::Less => other.search = one.search.clone(),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => one.search = other.search.clone(),
        }
    }
    walks.into_iter().map(|walk| walk.best).min_by_key(|(_, cost)| *cost).expect("there are two")
}

fn main() {
    // `cargo test --benches` runs benches with `--test`: nothing is timed then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(data) = std::env::var_os("CAPPLAN_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: CAPPLAN_TEST_DATA is not set");
        return;
    };
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let seconds: u64 = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(60);
    let only = arguments.get(1..).unwrap_or(&[]);
    let folder = data.join("bench/roadef2012/A");
    println!("| instance | initial | found in {seconds} s | known | ratio | ratio above the bound | bound |");
    println!("|---|---|---|---|---|---|---|");
    for (name, known, bound) in KNOWN.iter().filter(|(name, ..)| only.is_empty() || only.iter().any(|one| one == name)) {
        let instance = Instance::read(&folder.join(format!("model_{name}.txt")), &folder.join(format!("assignment_{name}.txt")));
        let initial = instance.cost(&instance.home).expect("the initial assignment is feasible");
        let (at, cost) = anneal(&instance, Duration::from_secs(seconds));
        assert_eq!(instance.cost(&at), Some(cost), "{name}: counted again from the definition");
        let ratio = cost as f64 / *known as f64;
        let above = (cost - bound) as f64 / (known - bound).max(1) as f64;
        println!("| {name} | {initial} | {cost} | {known} | {ratio:.4} | {above:.3} | {bound} |");
    }
}
