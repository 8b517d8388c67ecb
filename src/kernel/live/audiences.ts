import type { DocumentNode, ExecutionArgs } from 'graphql';
import { service, type App } from '../app.ts';
import { RowTexts } from '../compiler/row-texts.ts';
import { watchWorkspace } from './event-stream.ts';
import { detached, Feed } from './feed.ts';
import { checkpointMs, tickMs } from './follow.ts';
import { operationOf, type Operation } from './operation.ts';
import { Shared, variablesKey } from './shared-text.ts';

/** Whether those who may see the same share executions and texts. */
export const SharedExecution = service<{ readonly on: boolean }>('shared execution', () => ({ on: true }));

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
