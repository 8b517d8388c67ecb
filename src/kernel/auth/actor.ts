import type { Role } from '#prisma';
import type { Stamp } from './rights.ts';

/** Roles from least to most; a role includes every one before it. */
export const roles = ['VIEWER', 'MEMBER', 'ADMIN', 'OWNER'] as const satisfies readonly Role[];

export const atLeast = (role: Role, least: Role): boolean => roles.indexOf(role) >= roles.indexOf(least);

/** The lower of two roles. */
export const lowerRole = (a: Role, b: Role): Role => (atLeast(a, b) ? b : a);

/**
 * Kind of credential. SESSION: a person who signed in here. TOKEN: a person whom a trusted issuer's JWT names. API_KEY:
 * a program, for the person who made the key. MACHINE: a device or factory, which is no person and reaches what its
 * token says, and administers nothing. SYSTEM: the server itself.
 */
export type ActorKind = 'ANONYMOUS' | 'SESSION' | 'TOKEN' | 'API_KEY' | 'MACHINE' | 'SYSTEM';

/** How a person signs in here. */
export type SignInMethod = 'PASSWORD' | 'GITHUB' | 'SSO';

/** Every way to become an actor: sessions by how they began, the others by what they bring. Tests walk all of them. */
export type Way = Exclude<ActorKind, 'SESSION'> | `SESSION_${SignInMethod}`;

/** Where a request came from. Personal data: kept apart from the log, which refers to it. */
export interface Origin {
  /** IPv4 or IPv6 address. */
  readonly address: string;
  /** What the client calls itself, cut to 300 characters; empty when it does not say. */
  readonly userAgent: string;
}

/** Who asks, by which credential, with which rights. Made once per operation from the credential and the database. */
export interface Actor {
  readonly kind: ActorKind;
  /** The person; for an API key its maker; null for strangers, machines and the server itself. */
  readonly userId: string | null;
  /** The session's or key's own id; null where there is none. */
  readonly credentialId: string | null;
  /** When the credential ends by itself; null: it does not. */
  readonly expiresAt: Date | null;
  /** Role by workspace id: exactly the workspaces that this credential reaches. Operators own the instance's. */
  readonly roles: ReadonlyMap<string, Role>;
  /** Names of the verbs that the credential may use, within its roles; null: all of them. */
  readonly scopes: ReadonlySet<string> | null;
  /** Null inside the server. */
  readonly origin: Origin | null;
  /** Only of one whose rights are as they were read some time ago: they count when this holds, or after `confirm`. */
  readonly stamp?: Stamp;
}

export const anonymous: Actor = {
  kind: 'ANONYMOUS',
  userId: null,
  credentialId: null,
  expiresAt: null,
  roles: new Map(),
  scopes: null,
  origin: null,
};

/** The server itself: jobs and reconcilers. It has no rights by policy; it does not pass through it. */
export const system: Actor = { ...anonymous, kind: 'SYSTEM' };

/** Whether a person acts themselves, and not a program for them. */
export const isPerson = (actor: Actor): boolean => actor.kind === 'SESSION' || actor.kind === 'TOKEN';

/** Ids of the workspaces where the actor has at least this role. */
export function workspacesWith(actor: Actor, least: Role): string[] {
  return [...actor.roles].filter(([, role]) => atLeast(role, least)).map(([id]) => id);
}
