/**
 * The workspace of the server itself, made by a migration. Its log tells what belongs to no tenant, such as refused
 * sign-ins; its runs are those of the server, such as the deletion of an account. Operators are its owners; nobody is
 * a member of it.
 */
export const instanceWorkspaceId = '00000000-0000-7000-8000-000000000001';
