import { randomUUID } from 'node:crypto';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import type { Readers } from '../compiler/row-texts.ts';
import type { LoggedEvent } from '../events/define.ts';
import type { Channel } from './channel.ts';
import { encodeCursor } from './cursor.ts';
import type { EventPlan } from './event-stream.ts';
import { EntryItem, type EventItem } from './items.ts';
import type { Outlet } from './outlet.ts';
import { commonActor, SharedContext } from './shared-context.ts';
import { execution, type Shared } from './shared-text.ts';

/** Events that may wait for executions of an audience; beyond that its members follow alone. */
const maxQueue = 1024;
/** Of these, how many are written or looked up at the same time. */
const maxStarted = 100;
/** The same of snapshots: what comes while one is made is merged into the next. */
const maxSnapshots = 1;

/** Who is told what the audience is. */
export interface Member {
  readonly actor: Actor;
  readonly plan: EventPlan;
  readonly outlet: Outlet;
  /** Everything up to and including it was told when the member joined. */
  readonly position: bigint;
  /** Goes on alone after a place. */
  alone(position: bigint): void;
  /** @param error what the subscriber is told; without it, that nothing more comes */
  end(error?: unknown): void;
}

/** Where events come from. */
export interface Source {
  readonly app: App;
  readonly channel: Channel<LoggedEvent>;
  /** Seq of the last event that was handed out. */
  readonly position: bigint;
  add(audience: Audience): void;
  delete(audience: Audience): void;
}

/** A payload; undefined: the event is not wanted; null: it has to be executed. */
type Told = string | undefined | null;

interface Waiting {
  readonly event: LoggedEvent;
  /** Absent: it is not begun yet. */
  told?: { readonly payload: Told | Promise<Told> };
}

/** Those whose answers are the same, byte for byte: one execution for all of them. */
export class Audience {
  readonly key: string;
  readonly plan: EventPlan;
  readonly members = new Set<Member>();
  spokeAt = performance.now();
  readonly #source: Source;
  readonly #shared: Shared;
  readonly #actor: Actor;
  readonly #readers: Readers;
  readonly #epoch: number;
  /** Events that are not told yet, in order. */
  readonly #queue: Waiting[] = [];
  #over = false;

  constructor(source: Source, key: string, first: Member, shared: Shared) {
    this.#source = source;
    this.key = key;
    this.plan = first.plan;
    this.#epoch = source.channel.head.epoch;
    this.#shared = shared;
    this.#actor = commonActor(shared.operation.dependence, first.actor, first.plan.workspaceId);
    this.#readers = { actor: this.#actor };
    source.add(this);
  }

  /** Seq up to which the members were told everything. */
  get position(): bigint {
    const [head] = this.#queue;
    return head ? head.event.seq - 1n : this.#source.position;
  }

  release(member: Member): void {
    const position = member.position > this.position ? member.position : this.position;
    this.remove(member);
    member.alone(position);
  }

  remove(member: Member): void {
    this.members.delete(member);
    if (this.members.size === 0) this.#end();
  }

  offer(event: LoggedEvent): void {
    if (this.#over) return;
    const waiting: Waiting = { event };
    if (this.#merges(event)) return;
    if (this.#queue.length < this.#maxStarted) {
      let told: Told | Promise<Told>;
      try {
        told = this.#start(waiting);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (this.#queue.length === 0 && !(told instanceof Promise) && told !== null) {
        this.#deliver(event, told);
        return;
      }
    }
    this.#queue.push(waiting);
    if (this.#queue.length === 1) void this.#drain();
    else if (this.#queue.length > maxQueue) for (const member of this.members) this.release(member);
  }

  get #maxStarted(): number {
    return this.plan.snapshots ? maxSnapshots : maxStarted;
  }

  /** Has a newer event take the place of one that a snapshot has not begun for. */
  #merges(event: LoggedEvent): boolean {
    const before = this.#queue.at(-1);
    if (!this.plan.snapshots || this.#queue.length < 2 || !before || before.told) return false;
    // The last one ends it.
    if (this.plan.last?.(before.event) || this.plan.wanted(event, this.#actor) !== true) return false;
    this.#queue[this.#queue.length - 1] = { event };
    return true;
  }

  /** Tells where it stands. */
  checkpoint(): void {
    if (this.#queue.length > 0 || this.plan.snapshots) return;
    const seq = this.#source.position;
    const item: EventItem = { kind: 'checkpoint', cursor: this.#cursor(seq) };
    const shared = this.#shared.payload(item);
    const made = typeof shared === 'string' ? shared : this.#execute(item);
    this.spokeAt = performance.now();
    const send = (payload: string): void => {
      for (const member of this.members)
        if (member.position <= seq && !member.outlet.behind) member.outlet.send(payload);
    };
    if (!(made instanceof Promise)) send(made);
    // What it tells of is past by then: everything up to there was told before.
    else
      made
        .then((payload) => void (this.position === seq && send(payload)))
        .catch((error: unknown) => this.#fail(error));
  }

  async #drain(): Promise<void> {
    try {
      for (let head = this.#queue[0]; head && !this.#over; head = this.#queue[0]) {
        const told = await (head.told?.payload ?? this.#start(head));
        if (this.#over) return;
        const payload = told === null ? await this.#execute(this.#item(head.event)) : told;
        if (this.#over) return;
        this.#deliver(head.event, payload);
        this.#queue.shift();
        const next = this.#queue[this.#maxStarted - 1];
        if (next && !next.told) void this.#start(next);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #deliver(event: LoggedEvent, payload: string | undefined): void {
    const { seq } = event;
    if (payload !== undefined) {
      this.spokeAt = performance.now();
      for (const member of this.members) {
        if (member.position >= seq) continue;
        if (member.outlet.behind) this.release(member);
        else member.outlet.send(payload);
      }
    }
    if (this.plan.last?.(event)) for (const member of this.members) member.end();
  }

  #start(waiting: Waiting): Told | Promise<Told> {
    const payload = this.#tell(waiting.event);
    waiting.told = { payload };
    // It may fail before its turn comes, and is told then.
    if (payload instanceof Promise) payload.catch(() => undefined);
    return payload;
  }

  #tell(event: LoggedEvent): Told | Promise<Told> {
    const wanted = this.plan.wanted(event, this.#actor);
    if (wanted === false) return undefined;
    if (wanted === true) return this.#shared.payload(this.#item(event));
    return wanted.then((yes) => (yes ? this.#shared.payload(this.#item(event)) : undefined));
  }

  /** For its own rights alone. */
  #execute(item: EventItem): string | Promise<string> {
    return execution(this.#source.app, this.#shared, item, {
      context: new SharedContext(this.#source.app, this.#actor),
      readers: this.#readers,
      // An id for the execution: all members are told the same, and the log has it once.
      requestId: randomUUID,
    });
  }

  #item(event: LoggedEvent): EventItem {
    if (this.plan.snapshots) return this.plan.snapshots.of(event, this.#epoch);
    return new EntryItem(this.plan.workspaceId, this.#epoch, event);
  }

  #cursor(seq: bigint): string {
    return encodeCursor({ stream: this.plan.workspaceId, epoch: this.#epoch, seq });
  }

  /** The stream ends for all with an error, which each is told in its own way. */
  #fail(error: unknown): void {
    for (const member of this.members) member.end(error);
  }

  #end(): void {
    this.#over = true;
    this.#source.delete(this);
  }
}
