import { definePolicy, inWorkspace, selfInPerson, withParent } from '#kernel/auth/policy.ts';

/** Ways in, and the management of workspaces. The row rules of these types are the kernel's. */
export const can = definePolicy('identity', {
  verbs: {
    signUp: 'public',
    signIn: 'public',
    signOut: 'public',
    refreshSession: 'user',
    signOutEverywhere: 'user',
    endSession: 'user',
    verifyEmail: 'public',
    resendVerification: 'user',
    changeEmail: 'user',
    changePassword: 'user',
    requestPasswordReset: 'public',
    resetPassword: 'public',
    updateProfile: 'user',
    saveUserState: 'user',
    patchUserState: 'user',
    deleteMyAccount: 'user',
    createWorkspace: 'user',
    updateWorkspace: 'ADMIN',
    deleteWorkspace: 'OWNER',
    transferOwnership: 'OWNER',
    // A person's own affair: no key leaves for its maker.
    leaveWorkspace: 'user',
    inviteMember: 'ADMIN',
    resendInvitation: 'ADMIN',
    revokeInvitation: 'ADMIN',
    acceptInvitation: 'user',
    // Whoever has the token may: people without an account say no, too.
    declineInvitation: 'public',
    changeMemberRole: 'ADMIN',
    removeMember: 'ADMIN',
    createApiKey: 'ADMIN',
    updateApiKey: 'ADMIN',
    rotateApiKey: 'ADMIN',
    revokeApiKey: 'ADMIN',
    // Whoever names the provider says who everybody is, owners too.
    createSsoConnection: 'OWNER',
    updateSsoConnection: 'OWNER',
    disableSsoConnection: 'ADMIN',
    addSsoDomain: 'ADMIN',
    verifySsoDomain: 'ADMIN',
    removeSsoDomain: 'ADMIN',
    setSsoEnforced: 'OWNER',
    unlinkIdentity: 'user',
  },
  rows: {
    Session: selfInPerson('userId'),
    ExternalIdentity: selfInPerson('userId'),
    SsoConnection: inWorkspace('ADMIN'),
    SsoDomain: inWorkspace('ADMIN'),
    // A deletion is a run: the rule of Run holds for it.
    AccountDeletion: withParent,
    WorkspaceDeletion: withParent,
  },
}).verbs;
