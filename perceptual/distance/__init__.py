"""Feature maps → distance: LPIPS, its fast form and calibrations, and the classic distances."""
