import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { execute, type DocumentNode, type ExecutionArgs, type ExecutionResult } from 'graphql';
import { service, type App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { eventTypes, type LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { maskError } from '../http/errors.ts';
import { onceAt } from '../timer.ts';
import type { Listener } from './channel.ts';
import { compile, type Compiled } from './compiled.ts';
import { encodeCursor } from './cursor.ts';
import type { Subscription } from './hub.ts';
import { operationOf, type Operation } from './operation.ts';
import { bytesOf, Follower, type Outlet } from './outlet.ts';
import { commonActor, rightsKey, SharedContext } from './shared-context.ts';
import {
  changesRights,
  checkpointMs,
  credentialEnded,
  followIn,
  onNewEnd,
  tickMs,
  watchWorkspace,
  type EventPlan,
  type EventStream,
  type StreamItem,
} from './streams.ts';

/** How long one turn of the event loop may go on handing out events, milliseconds. */
const turnMs = 10;
/** Events that may wait for executions of an audience; beyond that its members follow alone. */
const maxQueue = 1024;

/** Runs outside of whatever request or trace caused it. */
const detached = AsyncLocalStorage.snapshot();

type Item = StreamItem<LoggedEvent>;

/**
 * Subscribers of this process who share executions, by log.
 * @see docs/decisions/0022-audiences.md
 */
export const Audiences = service('audiences', (app) => new AudiencesOf(app));

export class AudiencesOf {
  readonly app: App;
  readonly #feeds = new Map<string, Feed>();
  readonly #operations = new WeakMap<DocumentNode, Map<string, Operation>>();
  #timer: NodeJS.Timeout | null = null;

  constructor(app: App) {
    this.app = app;
  }

  /** How many executions there are for how many subscribers, for tests and metrics. */
  get size(): { readonly audiences: number; readonly members: number } {
    let audiences = 0;
    let members = 0;
    for (const feed of this.#feeds.values()) {
      audiences += feed.audiences.size;
      for (const { members: those } of feed.audiences.values()) members += those.size;
    }
    return { audiences, members };
  }

  /** Follows for one subscriber, once it begins: what it is told goes to the outlet. */
  follower(args: ExecutionArgs, stream: EventStream, outlet: Outlet): Follower {
    return new Member(this, args, stream, outlet);
  }

  operation({ schema, document, operationName }: ExecutionArgs): Operation {
    let known = this.#operations.get(document);
    if (!known) this.#operations.set(document, (known = new Map()));
    let operation = known.get(operationName ?? '');
    if (!operation) known.set(operationName ?? '', (operation = operationOf(schema, document, operationName)));
    return operation;
  }

  /** @throws {NotFound} when there is no such workspace */
  async feed(workspaceId: string): Promise<Feed> {
    const known = this.#feeds.get(workspaceId);
    if (known) return known.enter();
    const subscription = await watchWorkspace(this.app, workspaceId);
    // Somebody may have been faster.
    const now = this.#feeds.get(workspaceId);
    if (now) {
      subscription.release();
      return now.enter();
    }
    const feed = new Feed(this.app, subscription, () => this.#close(workspaceId));
    this.#feeds.set(workspaceId, feed);
    this.#timer ??= detached(() => setInterval(() => this.#tick(), tickMs));
    return feed.enter();
  }

  #close(workspaceId: string): void {
    this.#feeds.delete(workspaceId);
    if (this.#feeds.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #tick(): void {
    const before = performance.now() - checkpointMs;
    for (const feed of this.#feeds.values())
      for (const audience of feed.audiences.values()) if (audience.spokeAt <= before) audience.checkpoint();
  }
}

/** The log of a workspace, handed out to the audiences that are level with it. Lives as long as somebody follows. */
class Feed implements Listener<LoggedEvent> {
  readonly app: App;
  readonly channel: Subscription<LoggedEvent>['channel'];
  /** By key. */
  readonly audiences = new Map<string, Audience>();
  /** Seq of the last event that was handed out. */
  position: bigint;
  readonly #all = new Set<Audience>();
  /** Those that only events with one id concern: a run's or a subject's. */
  readonly #byId = new Map<string, Set<Audience>>();
  readonly #close: () => void;
  #followers = 0;
  #generation = 0;

  constructor(app: App, { channel, release }: Subscription<LoggedEvent>, close: () => void) {
    this.app = app;
    this.channel = channel;
    this.position = channel.last;
    this.#close = () => {
      channel.listen(null);
      release();
      close();
    };
    channel.listen(this);
  }

  enter(): this {
    this.#followers++;
    return this;
  }

  leave(): void {
    if (--this.#followers === 0) this.#close();
  }

  add(audience: Audience): void {
    this.audiences.set(audience.key, audience);
    const id = onlyOf(audience.plan);
    if (id === null) {
      this.#all.add(audience);
      return;
    }
    const those = this.#byId.get(id);
    if (those) those.add(audience);
    else this.#byId.set(id, new Set([audience]));
  }

  delete(audience: Audience): void {
    if (this.audiences.get(audience.key) === audience) this.audiences.delete(audience.key);
    const id = onlyOf(audience.plan);
    if (id === null) {
      this.#all.delete(audience);
      return;
    }
    const those = this.#byId.get(id);
    those?.delete(audience);
    if (those?.size === 0) this.#byId.delete(id);
  }

  fresh(entries: readonly LoggedEvent[]): Promise<void> | void {
    return detached(() => this.#hand(entries, 0, this.#generation));
  }

  /** One event after the other; a long page in several turns, so that the process goes on with all else. */
  #hand(entries: readonly LoggedEvent[], from: number, generation: number): Promise<void> | void {
    const until = performance.now() + turnMs;
    for (let index = from; index < entries.length; index++) {
      if (index > from && performance.now() > until)
        return nextTurn().then(() =>
          generation === this.#generation ? this.#hand(entries, index, generation) : undefined,
        );
      const event = entries[index] as LoggedEvent;
      // Whoever's rights may have ended goes on alone, and looks at them before this event.
      if (eventTypes().get(event.type)?.rights)
        this.#leaveAll((member) => changesRights(event, member.actor), event.seq);
      for (const audience of this.#all) audience.offer(event);
      if (this.#byId.size > 0) {
        if (event.runId !== null) for (const audience of this.#byId.get(event.runId) ?? []) audience.offer(event);
        if (event.subjectId !== event.runId)
          for (const audience of this.#byId.get(event.subjectId) ?? []) audience.offer(event);
      }
      this.position = event.seq;
    }
  }

  /** Each goes on alone from where it stands, and is told there what is the matter. */
  dropped(): void {
    this.#generation++;
    this.#leaveAll(() => true);
    this.position = this.channel.last;
  }

  /** @param seq those who are past it stay */
  #leaveAll(which: (member: Member) => boolean, seq?: bigint): void {
    for (const audience of this.audiences.values())
      for (const member of audience.members)
        if ((seq === undefined || member.position < seq) && which(member)) audience.release(member);
  }
}

/** The id of a plan that only events with it concern. Ids of runs are ids of subjects too. */
function onlyOf({ only }: EventPlan): string | null {
  if (!only) return null;
  return 'runId' in only ? only.runId : only.subjectId;
}

/** Those whose answers are the same, byte for byte: one execution for all of them. */
class Audience {
  readonly key: string;
  readonly plan: EventPlan;
  readonly members = new Set<Member>();
  spokeAt = performance.now();
  readonly #feed: Feed;
  /** Those of the first member, but for its context. All have the same, or what differs only says where they began. */
  readonly args: ExecutionArgs;
  readonly compiled: Compiled | null;
  readonly #actor: Actor;
  readonly #epoch: number;
  /** Events that are being executed, or wait for it, in order. */
  readonly #queue: { readonly event: LoggedEvent; made?: Promise<string | null> }[] = [];
  #over = false;

  constructor(feed: Feed, key: string, first: Member, operation: Operation) {
    this.#feed = feed;
    this.key = key;
    this.plan = first.plan;
    this.#epoch = feed.channel.head.epoch;
    this.#actor = commonActor(operation.dependence, first.actor, first.plan.workspaceId);
    this.args = first.args;
    this.compiled = compiledFor(operation, first.args);
    feed.add(this);
  }

  /** Seq up to which the members were told everything. */
  get position(): bigint {
    const [head] = this.#queue;
    return head ? head.event.seq - 1n : this.#feed.position;
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
    if (this.#queue.length === 0) {
      let made: string | null | Promise<string | null>;
      try {
        made = this.#make(event);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (made instanceof Promise) {
        this.#queue.push({ event, made });
        void this.#drain();
      } else this.#deliver(event, made);
      return;
    }
    this.#queue.push({ event });
    if (this.#queue.length > maxQueue) for (const member of this.members) this.release(member);
  }

  /** Tells where it stands. */
  checkpoint(): void {
    if (this.#queue.length > 0) return;
    const seq = this.#feed.position;
    const item: Item = { kind: 'checkpoint', cursor: this.#cursor(seq) };
    const made = this.#execute(item);
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
        const payload = await (head.made ?? this.#make(head.event));
        if (this.#over) return;
        this.#deliver(head.event, payload);
        this.#queue.shift();
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #deliver(event: LoggedEvent, payload: string | null): void {
    const { seq } = event;
    if (payload !== null) {
      this.spokeAt = performance.now();
      for (const member of this.members) {
        if (member.position >= seq) continue;
        if (member.outlet.behind) this.release(member);
        else member.outlet.send(payload);
      }
    }
    if (this.plan.last?.(event)) for (const member of this.members) member.end();
  }

  #make(event: LoggedEvent): string | null | Promise<string | null> {
    const wanted = this.plan.wanted(event, this.#actor);
    if (wanted === false) return null;
    const item: Item = { kind: 'entry', entry: event, cursor: this.#cursor(event.seq) };
    return wanted === true ? this.#execute(item) : wanted.then((yes) => (yes ? this.#execute(item) : null));
  }

  #execute(item: Item): string | Promise<string> {
    const { app } = this.#feed;
    const contextValue = new SharedContext(app, this.#actor);
    const text = this.compiled?.(item, contextValue);
    if (text) return bytesOf(`${text}}`);
    const result = execute({ ...this.args, rootValue: item, contextValue });
    // An id for the execution: all members are told the same, and the log has it once.
    const payload = (one: ExecutionResult): string => payloadOf(app, one, randomUUID);
    return result instanceof Promise ? result.then(payload) : payload(result);
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
    this.#feed.delete(this);
  }
}

function compiledFor(operation: Operation, args: ExecutionArgs): Compiled | null {
  if (!operation.fixed) return compile(args);
  operation.compiled ??= compile(args);
  return operation.compiled;
}

/** A payload as it is sent. @param requestId of what is masked */
function payloadOf(app: App, { errors, ...rest }: ExecutionResult, requestId: () => string): string {
  if (!errors) return bytesOf(`${JSON.stringify(rest)}}`);
  const id = requestId();
  const told = errors.map((error) => maskError(error, id, app.log).toJSON());
  return bytesOf(`${JSON.stringify({ ...rest, errors: told })}}`);
}

/**
 * One subscriber: alone until it has everything that there is, then in an audience, then alone again when it must. In an
 * audience it is a few words of memory: what all members have alike is the audience's, and the rest is what it needs to
 * go on alone.
 */
class Member extends Follower {
  readonly outlet: Outlet;
  /** Everything up to and including it was told when the member joined its audience. */
  position = 0n;
  args: ExecutionArgs;
  plan: EventPlan;
  readonly #audiences: AudiencesOf;
  readonly #context: Context;
  #compiled: Compiled | null = null;
  #feed: Feed | null = null;
  #audience: Audience | null = null;
  /** Ends what it does alone. */
  #abort: AbortController | null = null;
  #epoch = 0;
  #disarm: (() => void) | null = null;
  #over = false;

  constructor(audiences: AudiencesOf, args: ExecutionArgs, { plan, context }: EventStream, outlet: Outlet) {
    super();
    this.#audiences = audiences;
    const { schema, document, operationName, variableValues } = args;
    this.args = { schema, document, operationName: operationName ?? null, variableValues: variableValues ?? null };
    this.plan = plan;
    this.outlet = outlet;
    // Without what the transport and its plugins keep there for the time of a request.
    const { app, actor, requestId, rate, clientAddress, endStreams } = context;
    this.#context = { app, actor, requestId, clientAddress, setSession: null, gone: null, endStreams };
    if (rate) this.#context.rate = rate;
  }

  /** With the rights of the last look at them. */
  get actor(): Actor {
    return this.#context.actor;
  }

  begin(): void {
    this.outlet.follow(this);
    this.#begin().catch((error: unknown) => this.end(error));
  }

  stop(): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort?.abort();
    this.#abort = null;
    this.#disarm?.();
    this.#audience?.remove(this);
    this.#audience = null;
    if (!this.#feed) return;
    this.#feed.leave();
    this.#audiences.app.metrics.liveSubscribers.dec();
  }

  /** @param error what the subscriber is told; without it, that nothing more comes */
  end(error?: unknown): void {
    if (this.#over) return;
    this.stop();
    const { app, requestId } = this.#context;
    this.outlet.end(error === undefined ? null : maskError(error, requestId, app.log));
  }

  async #begin(): Promise<void> {
    const feed = await this.#audiences.feed(this.plan.workspaceId);
    if (this.#over) {
      feed.leave();
      return;
    }
    this.#feed = feed;
    this.#audiences.app.metrics.liveSubscribers.inc();
    this.#arm();
    await this.#follow(feed, this.plan, false);
  }

  /** Goes on alone after a place. */
  alone(position: bigint): void {
    this.#audience = null;
    const feed = this.#feed;
    if (this.#over || !feed) return;
    const { plan } = this;
    const after = { stream: plan.workspaceId, epoch: this.#epoch, seq: position };
    this.#follow(feed, { ...plan, after }, true).catch((error: unknown) => this.end(error));
  }

  async #follow(feed: Feed, plan: EventPlan, resumed: boolean): Promise<void> {
    const abort = new AbortController();
    this.#abort = abort;
    await this.outlet.drained();
    if (this.#over) return;
    onNewEnd(this.#context, () => this.#arm());
    const taken = (position: bigint): boolean => this.#join(feed, position);
    for await (const item of followIn(feed.channel, this.#context, plan, abort.signal, { taken, resumed })) {
      const payload = await this.#execute(item);
      if (this.#over) return;
      this.outlet.send(payload);
      if (this.outlet.behind) await this.outlet.drained();
      if (this.#over) return;
    }
    if (!this.#audience) this.end();
  }

  /** @returns true when an audience goes on from there for it */
  #join(feed: Feed, position: bigint): boolean {
    // Behind what was handed out: its rights are not looked at up to there.
    if (this.#over || position < feed.position) return false;
    const operation = this.#audiences.operation(this.args);
    const key = `${operation.id} ${this.#variables(operation)} ${rightsKey(operation.dependence, this.actor, this.plan.workspaceId)}`;
    const audience = feed.audiences.get(key) ?? new Audience(feed, key, this, operation);
    this.position = position;
    this.#epoch = feed.channel.head.epoch;
    this.#audience = audience;
    this.#abort = null;
    onNewEnd(this.#context, null);
    this.args = audience.args;
    this.plan = audience.plan;
    this.#compiled = audience.compiled;
    audience.members.add(this);
    return true;
  }

  /** Its variables, but for those that only tell where to begin. */
  #variables({ places }: Operation): string {
    const given = Object.entries(this.args.variableValues ?? {});
    return JSON.stringify(given.filter(([name]) => !places.has(name)));
  }

  async #execute(item: Item): Promise<string> {
    const context = this.#context;
    this.#compiled ??= compiledFor(this.#audiences.operation(this.args), this.args);
    const text = this.#compiled?.(item, { ...context });
    if (text) return bytesOf(`${text}}`);
    // A context of its own for each event: what loaders and guards remember must not outlive it.
    const result = await execute({
      ...this.args,
      rootValue: item,
      contextValue: { ...context },
    });
    return payloadOf(this.#audiences.app, result, () => context.requestId);
  }

  #arm(): void {
    this.#disarm?.();
    const { expiresAt } = this.actor;
    this.#disarm = expiresAt ? onceAt(expiresAt, () => this.end(credentialEnded(this.#context))) : null;
  }
}
