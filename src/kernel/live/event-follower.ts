import type { ExecutionArgs } from 'graphql';
import type { Actor } from '../auth/actor.ts';
import type { Context } from '../graphql/context.ts';
import { maskError } from '../http/errors.ts';
import { onceAt } from '../timer.ts';
import { Audience, type Member } from './audience.ts';
import type { AudiencesOf } from './audiences.ts';
import { followIn, type EventPlan, type EventStream } from './event-stream.ts';
import type { Feed } from './feed.ts';
import { Follower, type Outlet } from './outlet.ts';
import { rightsKey } from './shared-context.ts';
import { payloadFor, type Shared } from './shared-text.ts';
import { credentialEnded, onNewEnd } from './stream-rights.ts';

/**
 * One subscriber: alone until it has everything that there is, then in an audience, then alone again when it must. In an
 * audience it is a few words of memory: what all members have alike is the audience's, and the rest is what it needs to
 * go on alone.
 */
export class EventFollower extends Follower implements Member {
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
