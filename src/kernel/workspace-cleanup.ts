import type { App } from './app.ts';

/** What a part of a workspace's deletion did. */
export interface CleanupReport {
  /** How many of its things are gone, or go with the workspace's rows. */
  readonly removed: number;
  /** What could not be removed and stays behind, for a person; no names of what the workspace had. */
  readonly left: readonly string[];
}

/** What a clean-up is given. */
export interface CleanupContext {
  /** Aborts when the deletion stops, or somebody else goes on with it. */
  readonly signal: AbortSignal;
  /** A line for the operators. */
  log(text: string): Promise<void>;
  /** Before every effect outside the database. @throws when another worker may have taken the deletion over */
  fence(): Promise<void>;
}

export interface WorkspaceCleanup {
  /** What it removes, a plural: `applications`. */
  readonly name: string;
  readonly clean: (app: App, workspaceId: string, context: CleanupContext) => Promise<CleanupReport>;
}

const cleanups: WorkspaceCleanup[] = [];

/**
 * Declares what a domain has to remove outside the rows of a workspace that is being deleted; the rows go by
 * themselves, last. It is executed in the order of declaration (the kernel's first), more than once, and again by
 * another worker when one is lost: what is gone already is no error. It waits until things are really gone, but not for
 * what may never answer: that is `left`.
 */
export function defineWorkspaceCleanup(name: string, clean: WorkspaceCleanup['clean']): void {
  if (cleanups.some((one) => one.name === name)) throw new Error(`Two clean-ups of workspaces named ${name}`);
  cleanups.push({ name, clean });
}

export const workspaceCleanups = (): readonly WorkspaceCleanup[] => cleanups;
