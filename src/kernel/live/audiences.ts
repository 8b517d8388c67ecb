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
import { RowTexts, type Readers } from '../compiler/row-texts.ts';
import { compile, type Compiled } from './compiled.ts';
import { encodeCursor } from './cursor.ts';
import type { LoggedLine, Subscription } from './hub.ts';
import { operationOf, type Operation } from './operation.ts';
import { bytesOf, Follower, type Outlet } from './outlet.ts';
import { commonActor, everybody, rightsKey, SharedContext } from './shared-context.ts';
import {
  changesRights,
  checkpointMs,
  credentialEnded,
  followIn,
  onNewEnd,
  tickMs,
  watchWorkspace,
  EntryItem,
  type EventPlan,
  type EventStream,
  type LineStream,
  type StreamItem,
} from './streams.ts';

/** How long one turn of the event loop may go on handing out events, milliseconds. */
const turnMs = 10;
/** Events that may wait for executions of an audience; beyond that its members follow alone. */
const maxQueue = 1024;
/** Of these, how many are written or looked up at the same time. */
const maxStarted = 100;
/** Values of variables below the root of one document, for which what was compiled is kept. */
const maxCompiled = 100;
/** Texts of a document that are kept for those who replay at the same time: how many, and characters. */
const maxTexts = 1024;
const maxTextLength = 500_000;

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
  readonly rows: RowTexts;
  readonly #feeds = new Map<string, Feed>();
  /** What is followed with an iterator for each, by key. */
  readonly #shared = new Map<string, Shared>();
  readonly #operations = new WeakMap<DocumentNode, Map<string, Operation>>();
  #timer: NodeJS.Timeout | null = null;

  constructor(app: App) {
    this.app = app;
    this.rows = new RowTexts(app);
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

  /** The same for lines of output: each follows by itself, and is sent texts that are written once for all. */
  reader(args: ExecutionArgs, stream: LineStream, outlet: Outlet): Follower {
    return new Reader(this, args, stream, outlet);
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
    const feed = new Feed(this, workspaceId, subscription, () => this.#close(workspaceId));
    this.#feeds.set(workspaceId, feed);
    this.#begun();
    return feed.enter();
  }

  /** What those have in common who follow something each by itself with this document and these variables. */
  enterShared(args: ExecutionArgs, workspaceId: string): Shared {
    const operation = this.operation(args);
    const key = `${operation.id} ${variablesKey(operation, args)}`;
    let shared = this.#shared.get(key);
    if (!shared)
      this.#shared.set(key, (shared = new Shared(this.app, key, operation, args, this.rows, { workspaceId })));
    shared.users++;
    this.#begun();
    return shared;
  }

  leaveShared(shared: Shared): void {
    if (--shared.users > 0) return;
    this.#shared.delete(shared.key);
    this.#ended();
  }

  #begun(): void {
    this.#timer ??= detached(() => setInterval(() => this.#tick(), tickMs));
  }

  #ended(): void {
    if (this.#feeds.size + this.#shared.size > 0 || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #close(workspaceId: string): void {
    this.#feeds.delete(workspaceId);
    this.#ended();
  }

  #tick(): void {
    const before = performance.now() - checkpointMs;
    for (const feed of this.#feeds.values()) {
      for (const audience of feed.audiences.values()) if (audience.spokeAt <= before) audience.checkpoint();
      for (const shared of feed.shared.values()) shared.forget();
    }
    for (const shared of this.#shared.values()) shared.forget();
  }
}

/** The log of a workspace, handed out to the audiences that are level with it. Lives as long as somebody follows. */
class Feed implements Listener<LoggedEvent> {
  readonly app: App;
  readonly channel: Subscription<LoggedEvent>['channel'];
  /** By key. */
  readonly audiences = new Map<string, Audience>();
  /** By key. */
  readonly shared = new Map<string, Shared>();
  /** All who follow it. */
  readonly #readers: Readers;
  readonly #rows: RowTexts;
  /** Seq of the last event that was handed out. */
  position: bigint;
  readonly #all = new Set<Audience>();
  /** Those that only events with one id concern: a run's or a subject's. */
  readonly #byId = new Map<string, Set<Audience>>();
  readonly #close: () => void;
  #followers = 0;
  #generation = 0;

  constructor(
    { app, rows }: AudiencesOf,
    workspaceId: string,
    { channel, release }: Subscription<LoggedEvent>,
    close: () => void,
  ) {
    this.app = app;
    this.#rows = rows;
    this.#readers = { workspaceId };
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

  /** What those have in common who follow with these variables. */
  enterShared(operation: Operation, args: ExecutionArgs): Shared {
    const key = `${operation.id} ${variablesKey(operation, args)}`;
    let shared = this.shared.get(key);
    if (!shared) this.shared.set(key, (shared = new Shared(this.app, key, operation, args, this.#rows, this.#readers)));
    shared.users++;
    return shared;
  }

  leaveShared(shared: Shared): void {
    if (--shared.users === 0) this.shared.delete(shared.key);
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

/** The variables of those who follow with a document, but for those that only tell where to begin. */
function variablesKey({ places }: Operation, { variableValues }: ExecutionArgs): string {
  return JSON.stringify(Object.entries(variableValues ?? {}).filter(([name]) => !places.has(name)));
}

/**
 * A document and its variables. What it tells of an event without looking at who asks is made once for all who follow the
 * log with it, whatever their rights in the workspace are.
 */
class Shared {
  readonly key: string;
  readonly operation: Operation;
  /** Nothing of whoever happens to be the first. */
  readonly args: ExecutionArgs;
  readonly compiled: Compiled | null;
  users = 0;
  readonly #app: App;
  readonly #readers: Readers;
  /** By the very entry, which all who follow a channel are handed. */
  readonly #made = new Map<object, string | Promise<string | null>>();
  #length = 0;
  /** How often it was refused in a row. */
  #refused = 0;

  constructor(app: App, key: string, operation: Operation, args: ExecutionArgs, rows: RowTexts, readers: Readers) {
    const { schema, document, operationName, variableValues } = args;
    this.key = key;
    this.operation = operation;
    this.args = { schema, document, operationName: operationName ?? null, variableValues: variableValues ?? null };
    this.compiled = compiledFor(operation, this.args, rows);
    this.#app = app;
    this.#readers = readers;
  }

  /** What all are told; null where each has to be told by itself. */
  payload(item: StreamItem<LoggedEvent | LoggedLine>): string | Promise<string | null> | null {
    if (!this.compiled) return null;
    const entry = item.kind === 'entry' ? item.entry : null;
    const known = entry && this.#made.get(entry);
    if (known) return known;
    // What is refused again and again is tried now and then.
    if (this.#refused > 3 && entry && entry.seq % 16n !== 0n) return null;
    const text = this.compiled(item, new SharedContext(this.#app, everybody), this.#readers);
    if (typeof text === 'string') {
      const payload = this.#told(text);
      if (entry && payload !== null && this.users > 1) this.#keep(entry, payload);
      return payload;
    }
    if (text === null) return this.#told(text);
    const made = text.then((one) => {
      if (entry) this.#made.delete(entry);
      return this.#told(one);
    });
    // With rows in it it is shared only on its way: they are to be as they are now.
    if (entry) this.#made.set(entry, made);
    return made;
  }

  #told(text: string | null): string | null {
    this.#refused = text === null ? this.#refused + 1 : 0;
    return text && bytesOf(`${text}}`);
  }

  #keep(entry: object, payload: string): void {
    this.#made.set(entry, payload);
    this.#length += payload.length;
    if (this.#made.size > maxTexts || this.#length > maxTextLength) this.forget();
  }

  /** Forgets what was kept for those who come at the same time. */
  forget(): void {
    this.#length = 0;
    for (const [entry, payload] of this.#made) if (typeof payload === 'string') this.#made.delete(entry);
  }
}

function compiledFor({ below, compiled }: Operation, args: ExecutionArgs, rows: RowTexts): Compiled | null {
  const values = Object.entries(args.variableValues ?? {}).filter(([name]) => below.has(name));
  const key = JSON.stringify(values);
  let made = compiled.get(key);
  if (made !== undefined) return made;
  made = compile(args, rows);
  if (compiled.size >= maxCompiled) compiled.clear();
  compiled.set(key, made);
  return made;
}

/** A payload; undefined: the event is not wanted; null: it has to be executed. */
type Told = string | undefined | null;

interface Waiting {
  readonly event: LoggedEvent;
  /** Absent: it is not begun yet. */
  told?: { readonly payload: Told | Promise<Told> };
}

/** Those whose answers are the same, byte for byte: one execution for all of them. */
class Audience {
  readonly key: string;
  readonly plan: EventPlan;
  readonly members = new Set<Member>();
  spokeAt = performance.now();
  readonly #feed: Feed;
  readonly #shared: Shared;
  readonly #actor: Actor;
  readonly #readers: Readers;
  readonly #epoch: number;
  /** Events that are not told yet, in order. */
  readonly #queue: Waiting[] = [];
  #over = false;

  constructor(feed: Feed, key: string, first: Member, shared: Shared) {
    this.#feed = feed;
    this.key = key;
    this.plan = first.plan;
    this.#epoch = feed.channel.head.epoch;
    this.#shared = shared;
    this.#actor = commonActor(shared.operation.dependence, first.actor, first.plan.workspaceId);
    this.#readers = { actor: this.#actor };
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
    const waiting: Waiting = { event };
    if (this.#queue.length < maxStarted) {
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

  /** Tells where it stands. */
  checkpoint(): void {
    if (this.#queue.length > 0) return;
    const seq = this.#feed.position;
    const item: Item = { kind: 'checkpoint', cursor: this.#cursor(seq) };
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
        const next = this.#queue[maxStarted - 1];
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
  #execute(item: Item): string | Promise<string> {
    return execution(this.#feed.app, this.#shared, item, {
      context: new SharedContext(this.#feed.app, this.#actor),
      readers: this.#readers,
      // An id for the execution: all members are told the same, and the log has it once.
      requestId: randomUUID,
    });
  }

  #item(event: LoggedEvent): Item {
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
    this.#feed.delete(this);
  }
}

/** A payload for the rights of a context: written, or executed where that cannot be. */
function execution(
  app: App,
  { args, compiled }: Shared,
  item: StreamItem<unknown>,
  of: { readonly context: Context; readonly readers: Readers; readonly requestId: () => string },
): string | Promise<string> {
  const execution = (): string | Promise<string> => {
    const result = execute({ ...args, rootValue: item, contextValue: of.context });
    return result instanceof Promise
      ? result.then((one) => payloadOf(app, one, of.requestId))
      : payloadOf(app, result, of.requestId);
  };
  const text = compiled?.(item, of.context, of.readers) ?? null;
  if (text === null) return execution();
  if (typeof text === 'string') return bytesOf(`${text}}`);
  return text.then((one) => (one === null ? execution() : bytesOf(`${one}}`)));
}

/** What one who follows alone is told. */
function payloadFor(
  context: Context,
  shared: Shared,
  item: StreamItem<LoggedEvent | LoggedLine>,
): string | Promise<string> {
  const made = shared.payload(item);
  if (typeof made === 'string') return made;
  const own = () =>
    execution(context.app, shared, item, {
      // A context of its own for each event: what loaders and guards remember must not outlive it.
      context: { ...context },
      readers: { actor: context.actor },
      requestId: () => context.requestId,
    });
  return made === null ? own() : made.then((payload) => payload ?? own());
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
  plan: EventPlan;
  readonly #audiences: AudiencesOf;
  readonly #context: Context;
  /** Until what it has in common with others is found. */
  #args: ExecutionArgs | null;
  #feed: Feed | null = null;
  #shared: Shared | null = null;
  #audience: Audience | null = null;
  /** Ends what it does alone. */
  #abort: AbortController | null = null;
  #epoch = 0;
  #disarm: (() => void) | null = null;
  #over = false;

  constructor(audiences: AudiencesOf, args: ExecutionArgs, { plan, context }: EventStream, outlet: Outlet) {
    super();
    this.#audiences = audiences;
    this.#args = args;
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
    if (this.#shared) this.#feed.leaveShared(this.#shared);
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
    const args = this.#args;
    this.#args = null;
    const feed = await this.#audiences.feed(this.plan.workspaceId);
    if (this.#over || !args) {
      feed.leave();
      return;
    }
    this.#feed = feed;
    this.#shared = feed.enterShared(this.#audiences.operation(args), args);
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
    const context = this.#context;
    const abort = new AbortController();
    this.#abort = abort;
    await this.outlet.drained();
    if (this.#over) return;
    onNewEnd(context, () => this.#arm());
    const taken = (position: bigint): boolean => this.#join(feed, position);
    for await (const item of followIn(feed.channel, context, plan, abort.signal, { taken, resumed })) {
      if (!this.#shared) return;
      const made = payloadFor(context, this.#shared, item);
      const payload = made instanceof Promise ? await made : made;
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
    const shared = this.#shared;
    if (this.#over || !shared || position < feed.position) return false;
    const key = `${shared.key} ${rightsKey(shared.operation.dependence, this.actor, this.plan.workspaceId)}`;
    const audience = feed.audiences.get(key) ?? new Audience(feed, key, this, shared);
    this.position = position;
    this.#epoch = feed.channel.head.epoch;
    this.#audience = audience;
    this.#abort = null;
    onNewEnd(this.#context, null);
    this.plan = audience.plan;
    audience.members.add(this);
    return true;
  }

  #arm(): void {
    this.#disarm?.();
    const { expiresAt } = this.actor;
    this.#disarm = expiresAt ? onceAt(expiresAt, () => this.end(credentialEnded(this.#context))) : null;
  }
}

/** One who reads the output of a run. */
class Reader extends Follower {
  readonly #audiences: AudiencesOf;
  readonly #args: ExecutionArgs;
  readonly #stream: LineStream;
  readonly #outlet: Outlet;
  #items: AsyncIterableIterator<StreamItem<LoggedLine>> | null = null;
  #over = false;

  constructor(audiences: AudiencesOf, args: ExecutionArgs, stream: LineStream, outlet: Outlet) {
    super();
    this.#audiences = audiences;
    this.#args = args;
    this.#stream = stream;
    this.#outlet = outlet;
  }

  begin(): void {
    this.#outlet.follow(this);
    this.#items = this.#stream[Symbol.asyncIterator]();
    this.#read(this.#items).then(
      () => this.#end(null),
      (error: unknown) => this.#end(error),
    );
  }

  stop(): void {
    this.#over = true;
    const { log } = this.#stream.context.app;
    this.#items?.return?.().catch((error: unknown) => log.error({ err: error }, 'a stream was not given up'));
  }

  #end(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    const { app, requestId } = this.#stream.context;
    this.#outlet.end(error === null ? null : maskError(error, requestId, app.log));
  }

  async #read(items: AsyncIterableIterator<StreamItem<LoggedLine>>): Promise<void> {
    const { context, workspaceId } = this.#stream;
    const shared = this.#audiences.enterShared(this.#args, workspaceId);
    try {
      for await (const item of items) {
        const made = payloadFor(context, shared, item);
        const payload = made instanceof Promise ? await made : made;
        if (this.#over) return;
        this.#outlet.send(payload);
        if (this.#outlet.behind) await this.#outlet.drained();
      }
    } finally {
      this.#audiences.leaveShared(shared);
    }
  }
}
