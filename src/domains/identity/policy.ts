import { definePolicy } from '#kernel/auth/policy.ts';

/** Ways in, and the management of workspaces. The row rules of these types are the kernel's. */
export const can = definePolicy('identity', {
  verbs: {
    signUp: 'public',
    signIn: 'public',
    signOut: 'public',
    signOutEverywhere: 'user',
    createWorkspace: 'user',
    addMember: 'ADMIN',
    changeMemberRole: 'ADMIN',
    removeMember: 'ADMIN',
    createApiKey: 'ADMIN',
    revokeApiKey: 'ADMIN',
  },
  rows: {},
}).verbs;
