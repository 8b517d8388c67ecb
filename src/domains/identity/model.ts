import { z } from 'zod';
import type { RunStatus } from '#prisma';

export const Email = z
  .email()
  .max(320)
  .transform((text) => text.toLowerCase());

/** Length only, after NIST SP 800-63B: 12 to 200 characters, of any kind. */
export const Password = z.string().min(12, 'must have at least 12 characters').max(200);

export const Name = z.string().trim().min(1, 'must not be empty').max(120);

/** RFC 1123 label. */
export const Slug = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'must be 1 to 63 lower-case letters, digits and dashes, no dash at the ends',
  );

export const RoleInput = z.enum(['OWNER', 'ADMIN', 'MEMBER', 'VIEWER']);

export const SignUp = z.object({ email: Email, password: Password, name: Name });
export const SignIn = z.object({ email: Email, password: z.string().min(1).max(200) });
export const NewWorkspace = z.object({ name: Name, slug: Slug });
export const WorkspaceChange = z
  .object({ id: z.string(), name: Name.nullish(), slug: Slug.nullish() })
  .refine(({ name, slug }) => name != null || slug != null, 'must change something');
/** The short name again, so that nobody deletes the wrong one. */
export const WorkspaceEnd = z.object({ id: z.string(), slug: z.string().max(63) });

/** A type, because an interface is no JSON. */
export type WorkspaceDeletionInput = { readonly workspaceId: string };

export type WorkspaceDeletionPhase = 'PENDING' | 'DELETING' | 'DELETED' | 'FAILED' | 'CANCELED';

export const deletionPhases: Readonly<
  Record<WorkspaceDeletionPhase, { readonly status: RunStatus; readonly next: readonly WorkspaceDeletionPhase[] }>
> = {
  PENDING: { status: 'QUEUED', next: ['DELETING', 'FAILED', 'CANCELED'] },
  DELETING: { status: 'RUNNING', next: ['DELETED', 'FAILED', 'CANCELED'] },
  DELETED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
};

/** What a deletion did, by part: how many things are gone, and what is left. */
export const DeletionReport = z.record(
  z.string(),
  z.object({ removed: z.int(), left: z.array(z.string()) }),
);
export type DeletionReport = z.output<typeof DeletionReport>;

export const NewInvitation = z.object({ workspaceId: z.string(), email: Email, role: RoleInput });
/** What a mail or a receipt carries: anything else is none of ours, and is looked up as one that does not exist. */
export const Token = z.string().min(1).max(200);
export const RoleChange = z.object({ membershipId: z.string(), role: RoleInput });
/** Verbs that a key may use, by name; `*` alone: all that its role has; none: it only reads. */
const Scopes = z
  .array(z.string().max(100))
  .max(200)
  .transform((names) => (names.includes('*') ? ['*'] : [...new Set(names)].toSorted()));
export const NewKey = z.object({
  workspaceId: z.string(),
  name: Name,
  role: RoleInput,
  scopes: Scopes.default(['*']),
  expiresAt: z
    .date()
    .refine((date) => date > new Date(), 'must be in the future')
    .nullish(),
});
export const KeyChange = z.object({ id: z.string(), name: Name });
export const KeyRotation = z.object({
  id: z.string(),
  /** At most a day. */
  graceS: z.int().min(0).max(24 * 3600).default(0),
});
