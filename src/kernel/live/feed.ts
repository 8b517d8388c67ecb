import { AsyncLocalStorage } from 'node:async_hooks';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ExecutionArgs } from 'graphql';
import type { App } from '../app.ts';
import type { Readers, RowTexts } from '../compiler/row-texts.ts';
import { eventTypes, type LoggedEvent } from '../events/define.ts';
import type { Audience, Member, Source } from './audience.ts';
import type { Listener } from './channel.ts';
import type { EventPlan } from './event-stream.ts';
import type { Subscription } from './hub.ts';
import type { Operation } from './operation.ts';
import { Shared, variablesKey } from './shared-text.ts';
import { changesRights } from './stream-rights.ts';

/** How long one turn of the event loop may go on handing out events, milliseconds. */
const turnMs = 10;

/** Runs outside of whatever request or trace caused it. */
export const detached = AsyncLocalStorage.snapshot();

/** The log of a workspace, handed out to the audiences that are level with it. Lives as long as somebody follows. */
export class Feed implements Source, Listener<LoggedEvent> {
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
    { app, rows }: { readonly app: App; readonly rows: RowTexts },
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
