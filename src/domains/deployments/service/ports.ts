import type { Deployment, Run } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Transaction } from '#kernel/db/transact.ts';

/** HTTP Basic credentials for one repository. */
export interface SourceCredentials {
  readonly username: string;
  readonly password: string;
}

/** Who knows how a workspace reaches a private repository. `start` provides it; without it, everything is public. */
export interface SourceAccess {
  /**
   * What to fetch this repository with, for that workspace; null: nothing.
   * @throws DomainError when it should be reached with something that is not good any more
   */
  credentials(
    of: { readonly workspaceId: string; readonly repositoryUrl: string },
    signal: AbortSignal,
  ): Promise<SourceCredentials | null>;
}
export const SourceAccess = service<SourceAccess>('source access', () => ({ credentials: async () => null }));

/** Is told of a deployment that was created, and of its end, in the transaction that does it. */
export type DeploymentWatcher = (app: App, tx: Transaction, deployment: WatchedDeployment) => Promise<void>;

/** What is deployed, as far as it is known, a branch or commit and the commit; and how its run stands. */
export type WatchedDeployment = Pick<Deployment, 'id' | 'ref' | 'commitSha'> & Pick<Run, 'workspaceId' | 'status'>;

const watchers: DeploymentWatcher[] = [];

/** Declares a watcher, for domains that this one does not know. */
export function watchDeployments(watcher: DeploymentWatcher): void {
  watchers.push(watcher);
}

/** Is told of a preview whose state changed, in the transaction that does it. */
export type PreviewWatcher = (app: App, tx: Transaction, previewId: string) => Promise<void>;

const previewWatchers: PreviewWatcher[] = [];

/** Declares a watcher, for domains that this one does not know. */
export function watchPreviews(watcher: PreviewWatcher): void {
  previewWatchers.push(watcher);
}

export async function tellPreviewWatchers(app: App, tx: Transaction, previewId: string): Promise<void> {
  for (const watcher of previewWatchers) await watcher(app, tx, previewId);
}

/** What belongs to an application and goes with it. */
export interface RemovalWatcher {
  /** Its deletion is asked for; it is locked. */
  readonly asked: (app: App, tx: Transaction, applicationId: string) => Promise<void>;
  /** Its rows are about to go. */
  readonly gone: (app: App, tx: Transaction, applicationId: string) => Promise<void>;
}

export const removalWatchers: RemovalWatcher[] = [];

/** Is told of an application, which is locked, that is deployed from somewhere else now. */
export type SourceWatcher = (app: App, tx: Transaction, applicationId: string) => Promise<void>;

export const sourceWatchers: SourceWatcher[] = [];

export async function tellWatchers(app: App, tx: Transaction, deployment: WatchedDeployment): Promise<void> {
  for (const watcher of watchers) await watcher(app, tx, deployment);
}
