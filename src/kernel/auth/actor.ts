import type { Role } from '#prisma';

/** Roles from least to most; a role includes every one before it. */
export const roles = ['VIEWER', 'MEMBER', 'ADMIN', 'OWNER'] as const satisfies readonly Role[];

export const atLeast = (role: Role, least: Role): boolean => roles.indexOf(role) >= roles.indexOf(least);

/** The lower of two roles. */
export const lowerRole = (a: Role, b: Role): Role => (atLeast(a, b) ? b : a);

export type ActorKind = 'ANONYMOUS' | 'SESSION' | 'API_KEY' | 'SYSTEM';

/** Who asks, by which credential, with which rights. Made once per operation from the credential and the database. */
export interface Actor {
  readonly kind: ActorKind;
  /** The person; for an API key its maker; null for strangers and the server itself. */
  readonly userId: string | null;
  /** The session's or key's own id; null where there is none. */
  readonly credentialId: string | null;
  /** For a session: the epoch that it was made in. */
  readonly sessionEpoch?: number | undefined;
  /** When the credential ends by itself; null: it does not. */
  readonly expiresAt: Date | null;
  /** Role by workspace id: exactly the workspaces that this credential reaches. */
  readonly roles: ReadonlyMap<string, Role>;
}

export const anonymous: Actor = {
  kind: 'ANONYMOUS',
  userId: null,
  credentialId: null,
  expiresAt: null,
  roles: new Map(),
};

/** The server itself: jobs and reconcilers. It has no rights by policy; it does not pass through it. */
export const system: Actor = { ...anonymous, kind: 'SYSTEM' };

/** Ids of the workspaces where the actor has at least this role. */
export function workspacesWith(actor: Actor, least: Role): string[] {
  return [...actor.roles].filter(([, role]) => atLeast(role, least)).map(([id]) => id);
}
