import { z } from 'zod';

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
export const NewMember = z.object({ workspaceId: z.string(), email: Email, role: RoleInput });
export const RoleChange = z.object({ membershipId: z.string(), role: RoleInput });
export const NewKey = z.object({
  workspaceId: z.string(),
  name: Name,
  role: RoleInput,
  expiresAt: z
    .date()
    .refine((date) => date > new Date(), 'must be in the future')
    .nullish(),
});
